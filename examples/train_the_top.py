"""Start from a trained run, train the upper layers only, and stop when held-out text no longer gains.

python examples/train_the_top.py [RUN_FOLDER] [PATH=VALUE ...]
"""

import sys

import mai
from recipes.debug.tiny import tiny

LEAST_GAIN = 0.001
"""Bits per byte."""


def main(folder: str = "runs/train_the_top", *overrides: str) -> None:
    base = mai.override(tiny(), overrides)
    with mai.open_run(base, f"{folder}/base") as run:
        for _ in run.steps():
            pass

    frozen = "optimizer.groups=embedding.*:frozen,decoder.layers.[01].*:frozen,*norm*:rate=0.1"
    top = mai.override(base, [frozen, f"checkpoint.start_from={folder}/base", "evaluate.every_steps=5"])
    best = float("inf")
    with mai.open_run(top, f"{folder}/top") as run:
        for result in run.steps():
            if (bits := result.held_out_bits_per_byte) is None:
                continue
            run.log({"gain_in_bits_per_byte": best - bits})
            if best - bits < LEAST_GAIN:
                break
            best = bits


if __name__ == "__main__":
    main(*sys.argv[1:])
