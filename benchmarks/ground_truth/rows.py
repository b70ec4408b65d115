"""The rows of the ground truth, and what each of them measured."""

import csv
from collections.abc import Iterator
from pathlib import Path

from mai.plan.model.architecture import Architecture
from mai.plan.model.model_flops import whole_square_flops_per_token

HERE = Path(__file__).parent

GPUS_OF_ONE_NODE = 8
"""Or fewer; a group of an NVL72 is of several nodes here, though they share NVLink."""

Row = dict[str, str]


class UnusableError(Exception):
    """Why a row cannot be predicted."""


def read(file: Path = HERE / "measured.csv") -> Iterator[Row]:
    """In the order of the file."""
    with file.open(newline="", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def number(row: Row, name: str, default: int | None = None) -> int:
    """A whole number of a row; raises UnusableError where it is not printed and has no default."""
    if row.get(name, "") == "":
        if default is None:
            raise UnusableError(f"{name} is not printed")
        return default
    return int(float(row[name]))


def batch_sequences(row: Row) -> int:
    """Sequences of a step."""
    if row["source"] == "InternEvo" and not row["global_batch"]:
        times = 4 if "accumulation 4" in row["notes"] or "4 micro" in row["notes"] else 1
        return number(row, "dp") * number(row, "micro_batch") * times
    return number(row, "global_batch")


def measured_seconds(row: Row, architecture: Architecture) -> float:
    """Of a step; raises UnusableError where no time is printed, and nothing that a time follows from.

    NeMo's rows of long sequences print TFLOP/s only, and count the whole square of attention.
    """
    if row["step_s"]:
        return float(row["step_s"])
    tokens = batch_sequences(row) * number(row, "seq")
    if row["tokens_per_s_per_gpu"]:
        return tokens / (float(row["tokens_per_s_per_gpu"]) * number(row, "gpus"))
    if row["tflops_per_gpu"] and "full (non-causal)" in row["notes"] and row["tp"]:
        flops = tokens * whole_square_flops_per_token(architecture, number(row, "seq"))
        return flops / (float(row["tflops_per_gpu"]) * 1e12 * number(row, "gpus"))
    raise UnusableError("no time is printed")
