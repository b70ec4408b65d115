"""Which published models have a certificate for their layout, and how close they were.

make certified     certifies each of them and writes docs/certified.md, in half an hour on two free cores
"""

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RECIPES = (
    "llama3_405b",
    "mistral_7b",
    "mixtral_8x7b",
    "qwen2_7b",
    "qwen2_57b_a14b",
    "qwen3_8b",
    "qwen3_235b_a22b",
    "deepseek_v2",
    "deepseek_v3",
    "kimi_k2",
    "gpt_oss_120b",
    "phi4_14b",
    "ministral_8b",
    "seed_oss_36b",
    "smollm3_3b",
    "glm4_9b",
    "glm4_32b",
    "glm4_5_355b_a32b",
    "olmo2_7b",
    "olmo3_7b",
    "gemma3_12b",
    "granite3_8b",
    "mai1_500b",
    "mai1_500b_256k",
    "mai1_500b_moe",
    "mai_base_1",
    "frontier_1_8t_moe",
)
"""Every family, and every recipe of our own."""

DOCUMENT = Path(__file__).parents[2] / "docs" / "certified.md"
_HEAD = """# Certificates of the published models

Written by `make certified`; do not edit. {date}, torch {torch}, Megatron-Core {megatron}, CPU with gloo, {minutes}
minutes on {cores} cores.

Each line is a recipe as it comes, its layout shrunk by `mai certify` to what this machine can start
([guide](guides/certify.md)), against one rank: {steps} steps, every loss, gradient and updated weight on every rank.
**{passed} of {all} pass.** A cell holds the largest difference from one rank, and how much that is of what is allowed.
What these do not show, each certificate lists: NCCL, GPU kernels, degrees beyond the tried ones, the real sizes.

| recipe | layout tried | fp32: loss | gradient | gradient norm | weight | bf16: closest to its limit | tokens |
|---|---|---|---|---|---|---|---|
"""
_KINDS = ("loss", "gradient", "gradient norm", "weight")


def document(certificates: Mapping[str, Mapping[str, Any]], *, cores: int) -> str:
    """docs/certified.md, of certificates by the name of their recipe."""
    found = list(certificates.values())
    seconds = sum(sum(one["seconds"].values()) for one in found)
    head = _HEAD.format(
        date=dt.date.fromisoformat(found[0]["created"][:10]),
        torch=found[0]["code"]["torch"],
        megatron=found[0]["code"]["megatron-core"],
        minutes=round(seconds / 60),
        cores=cores,
        steps=found[0]["steps"],
        passed=sum(one["passed"] for one in found),
        all=len(found),
    )
    return head + "".join(f"| `{name}` | {' | '.join(_cells(one))} |\n" for name, one in certificates.items())


def _cells(certificate: Mapping[str, Any]) -> Sequence[str]:
    degrees = {axis: degree["shrunk"] for axis, degree in certificate["degrees"].items()}
    layout = " x ".join(f"{axis} {degree}" for axis, degree in degrees.items() if degree not in (None, 1))
    if certificate["shrunk_recipe"]["parallel"]["sharding"] == "full":
        layout += ", full sharding"
    fp32 = [_shown(certificate["compared"]["fp32"][kind]["worst"]) for kind in _KINDS]
    bf16 = certificate["compared"].get("bf16", {})
    worst = max((kind["worst"] for kind in bf16.values()), key=lambda one: one["used"], default=None)
    closest = "-" if worst is None else f"{worst['kind']}: {_shown(worst)}"
    return [layout, *fp32, closest, "the second ones" if certificate["draw"] else "the first ones"]


def _shown(worst: Mapping[str, Any]) -> str:
    return f"{worst['difference']:.1e}, {worst['used']:.0%}"


def main() -> None:
    """Certify each and write the document; one that fails is told by `mai certify`."""
    found = {}
    for name in RECIPES:
        command = [sys.executable, "-m", "mai", "certify", name, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        found[name] = json.loads(done.stdout)
        print(f"{name}: passed", flush=True)
    DOCUMENT.write_text(document(found, cores=len(os.sched_getaffinity(0))), encoding="utf-8")


if __name__ == "__main__":
    main()
