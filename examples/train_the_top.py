"""Start from a trained run, train the upper layers only, and stop when held-out text no longer gains.

python examples/train_the_top.py [RUN_FOLDER] [PATH=VALUE ...]
"""

import sys

import mai
from recipes.debug.tiny import tiny

LEAST_GAIN = 0.001
"""Bits per byte."""


def main(folder: str = "runs/train_the_top", *overrides: str) -> int:
    base = mai.override(tiny(), overrides)
    with mai.open_run(base, f"{folder}/base") as run:
        for _ in run.steps():
            pass
    if run.exit_code:
        # Asked to end: the scheduler is to start this again.
        return int(run.exit_code)

    frozen = "optimizer.groups=embedding.*:frozen,decoder.layers.[01].*:frozen,*norm*:rate=0.1"
    top = mai.override(base, [frozen, f"checkpoint.start_from={folder}/base", "evaluate.every_steps=5"])
    best: float | None = None
    with mai.open_run(top, f"{folder}/top") as run:
        for result in run.steps():
            if (bits := result.held_out_bits_per_byte) is None:
                continue
            if best is not None:
                run.log({"gain_in_bits_per_byte": best - bits})
                if best - bits < LEAST_GAIN:
                    # All that was wanted.
                    return 0
            best = bits
    return int(run.exit_code)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
