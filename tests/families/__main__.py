"""make families: random configurations of every family beside transformers, written to docs/families.md."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.families.compare import Case, compare, prepare
from tests.families.draw import FAMILIES


def main() -> None:
    parser = argparse.ArgumentParser(prog="make families")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--number", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    for family in asked.families:
        with tempfile.TemporaryDirectory() as folder:
            cases = [
                prepare(family, number, Path(folder) / str(number))
                for number in range(asked.first, asked.first + asked.number)
            ]
            compare(cases)
            for case in cases:
                say(line(case))


def line(case: Case) -> str:
    if case.not_a_model:
        return f"{case.family} {case.number}: no model: {case.not_a_model[:150]!r}"
    if case.refused:
        return f"{case.family} {case.number}: refused: {case.refused[:300]}"
    differences = ", ".join(f"{name} {one:.1e}" for name, one in case.differences.items())
    verdict = "WRONG" if case.is_wrong else "equal"
    return f"{case.family} {case.number}: {verdict}: {differences}{f' {case.config}' if case.is_wrong else ''}"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
