"""make families: random configurations of every family beside transformers; writes docs/families.md if all were asked.

Ends with 1 where one is neither equal nor refused.
"""

import argparse
import logging
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

from tests.families.compare import ONE_RANK, TOLERANCE, Case, compare, name_of, prepare
from tests.families.draw import FAMILIES
from tests.house.sources import ROOT

DOCUMENT = ROOT / "docs/families.md"
NUMBER = 24


def main() -> int:
    parser = argparse.ArgumentParser(prog="make families")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--number", type=int, default=NUMBER, help="Configurations of each that transformers takes.")
    asked = parser.parse_args()
    # transformers has much to say of configurations that nobody made.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    logging.getLogger("transformers").setLevel(logging.ERROR)
    found: dict[str, list[Case]] = {}
    for family in asked.families:
        with tempfile.TemporaryDirectory() as folder:
            found[family] = list(islice(models(family, Path(folder)), asked.number))
            compare(found[family])
        for case in found[family]:
            say(line(case))
    if asked.families == list(FAMILIES):
        DOCUMENT.write_text(document(found))
        say(f"{DOCUMENT.relative_to(ROOT)} is written")
    return int(any(case.is_wrong for cases in found.values() for case in cases))


def models(family: str, folder: Path) -> Iterator[Case]:
    """Draw by draw, those that transformers takes; AssertionError where it takes none of twenty."""
    last = 0
    for number in count():
        case = prepare(family, number, folder / str(number))
        if not case.not_a_model:
            last = number
            yield case
        assert number < last + 20, f"transformers takes no {family}: {case.not_a_model}"


def line(case: Case) -> str:
    if case.refused:
        return f"{case.family} {case.number}: refused: {case.refused}"
    differences = ", ".join(f"{name} {one:.1e}" for name, one in case.differences.items())
    said = f"WRONG: {differences} {case.failure} {case.config}" if case.is_wrong else f"equal: {differences}"
    return f"{case.family} {case.number}: {said}"


def document(found: dict[str, list[Case]]) -> str:
    """docs/families.md."""
    rows = [_row(family, cases) for family, cases in found.items()]
    reasons = Counter((case.family, reason) for cases in found.values() for case in cases for reason in _reasons(case))
    told = [f"- {family}, {number} times: {reason}" for (family, reason), number in sorted(reasons.items())]
    tried = sum(map(len, found.values()))
    wrong = [f"- {line(case)}" for cases in found.values() for case in cases if case.is_wrong]
    return "\n".join(
        [
            "# Families",
            "",
            "Written by `make families`: configurations drawn at random over all fields of a family's `config.json`",
            "(`tests/families/draw.py`), filled with random weights by transformers, imported by `mai import hf`, and",
            f"computed in fp32. Equal is a largest difference of logits of at most {TOLERANCE:g}, at one rank and cut",
            "over tensor 2 x pipeline 2 (pipeline 2 alone where two ranks cannot share the key heads). Refused is by",
            "name, before anything is written. Draws that transformers itself does not take are drawn again. Kimi K2",
            "is DeepSeek-V3 under another name.",
            "",
            "| family | tried | equal | refused | wrong | largest difference, one rank | cut |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"{tried} in all.",
            "",
            "## Wrong",
            "",
            *(wrong or ["None."]),
            "",
            "## Refused",
            "",
            *told,
            "",
        ]
    )


def _row(family: str, cases: Sequence[Case]) -> str:
    compared = [case for case in cases if case.is_compared and not case.is_wrong]
    one = max((case.differences[name_of(ONE_RANK)] for case in compared), default=0.0)
    of_cuts = [(name, value) for case in compared for name, value in case.differences.items()]
    cut = max((value for name, value in of_cuts if name != name_of(ONE_RANK)), default=0.0)
    refused, wrong = sum(bool(case.refused) for case in cases), sum(case.is_wrong for case in cases)
    return f"| {family} | {len(cases)} | {len(compared)} | {refused} | {wrong} | {one:.1e} | {cut:.1e} |"


def _reasons(case: Case) -> list[str]:
    """One a line, without what is only of this draw."""
    lines = (reason.removeprefix("config.json: ") for reason in case.refused.splitlines())
    return [re.sub(r"\[[^\]]*\]", "[...]", reason) for reason in lines]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
