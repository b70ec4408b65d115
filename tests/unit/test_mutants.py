"""What `make mutants` draws, and where it looks for whoever notices."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.house.sources import python_files
from tests.mutants.__main__ import Whole, draw, mutants_of, noticed
from tests.mutants.copy import TIME_RAN_OUT, Answer, Copy, first_failure
from tests.mutants.mutations import mutations_of
from tests.mutants.results import Found, Mutant, Notes, digest_of_test, document, explanations
from tests.mutants.rooms import LEFT_OUT, ROOMS, ROOT, files_of, nearest_first

HERE = "tests/unit/test_mutants.py"
SOURCE = '''
"""A module."""

from typing import TYPE_CHECKING

__all__ = ["a", "b", "c"]

if TYPE_CHECKING:
    LIMIT = 1


def chosen(sizes: dict[str, int], limit: int = 3) -> list[int]:
    """Those under the limit."""
    log.info("of %d", len(sizes) + 1)
    found = []
    for name in sorted(sizes, key=len):
        if name and sizes[name] < limit:
            found.append(2 * sizes[name])
    if not found:
        raise ValueError(f"none of {len(sizes) + 1} is under {limit - 1}")
    return found[-1]
'''


def changes(source: str) -> dict[str, str]:
    """What each mutation makes of its line."""
    return {one.kind: one.applied_to(source).splitlines()[one.line - 1].strip() for one in mutations_of(source)}


def test_every_mutation_changes_one_thing_that_the_program_does() -> None:
    assert changes(SOURCE) == {
        "`3` became `4`": "def chosen(sizes: dict[str, int], limit: int = 4) -> list[int]:",
        "`sorted` became `list`": "for name in list(sizes, key=len):",
        "argument `key` dropped": "for name in sorted(sizes):",
        "condition negated": "if (not (not found)):",
        "`and` became `or`": "if name or sizes[name] < limit:",
        "`<` turned, to `>=`": "if name and sizes[name] >= limit:",
        "`<` moved by one, to `<=`": "if name and sizes[name] <= limit:",
        "call dropped": "pass",
        "`*` became `/`": "found.append(2 / sizes[name])",
        "`2` became `3`": "found.append(3 * sizes[name])",
        "`raise` dropped": "pass",
        "returned `None`": "return None",
        "`[-1]` became `[0]`": "return found[0]",
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x = {'model', 'data', 'objective'}", "x = {'model', 'data'}"),
        ("x = max(a, b)", "x = min(a, b)"),
        ("x += 1", "x -= 1"),
        ("x = a if b else c", "x = a if (not (b)) else c"),
        ("x = [y for y in z if y]", "x = [y for y in z if (not (y))]"),
        ("x = a // (b % c)", "x = a // (b // c)"),
        ("x = a is None", "x = a is not None"),
        ("x = f(a, deep=True)", "x = f(a, deep=False)"),
        ("x = 0.5", "x = 1.0"),
    ],
)
def test_kinds_of_mutations(line: str, expected: str) -> None:
    assert expected in [one.applied_to(line) for one in mutations_of(line)]


@pytest.mark.parametrize(
    "line",
    [
        "import a",
        "x: int",
        "assert a < 1",
        '"text"',
        "x = 'a' + b",
        "log.warning('%d', 1 + a)",
        "y = zip(a, strict=True)",
    ],
)
def test_what_nobody_could_notice_is_not_drawn(line: str) -> None:
    assert mutations_of(line) == []


def test_a_draw_is_the_same_for_a_seed_and_what_it_leaves_is_code() -> None:
    first, again, other = (draw(["parallel", "data"], 20, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) in (20, 21)
    assert {mutant.room for mutant, _ in first} == {"parallel", "data"}
    for mutant, mutation in first:
        compile(mutation.applied_to((ROOT / mutant.file).read_text()), mutant.file, "exec")


def test_every_file_of_mai_is_in_one_room_and_every_test_of_a_room_is_there() -> None:
    in_rooms = [file for room in ROOMS for file in files_of(room)]
    files = [path.relative_to(ROOT).as_posix() for path in python_files("mai", "launch")]
    assert sorted(in_rooms) == [file for file in files if not file.startswith(LEFT_OUT)]
    for room in ROOMS.values():
        assert room.tests
        of_parts = [tests for these in room.of_parts.values() for tests in these]
        assert [tests for tests in (*room.tests, *of_parts) if not (ROOT / tests).exists()] == []
        assert [part for part in room.of_parts if not (ROOT / part).is_dir()] == []


MUTANT = Mutant("data", "mai/data/order.py", 3, "return a < b", "`<` turned, to `>=`", 17)


def of(*, killed: bool, source: str = "s", tests: str = "t", mutant: Mutant = MUTANT) -> Found:
    return Found(
        mutant,
        source,
        tests,
        killed=killed,
        noticed_by=f"{HERE}::b" if killed else "",
        noticing=digest_of_test(HERE) if killed else "",
        left_out=(),
        seconds=1.0,
    )


def test_a_kill_is_known_while_the_file_stands_and_a_survival_while_the_tests_do(tmp_path: Path) -> None:
    path = tmp_path / "notes/seed-0.jsonl"
    notes = Notes(path)
    notes.add(of(killed=False))
    assert Notes(path).of(MUTANT, source="s", tests="t") == of(killed=False)
    assert Notes(path).of(MUTANT, source="s", tests="newer") is None
    assert Notes(path).of(MUTANT, source="s", tests="newer", is_explained=True) == of(killed=False)
    notes.add(of(killed=True, tests="newer"))
    assert Notes(path).of(MUTANT, source="s", tests="newest") == of(killed=True, tests="newer")
    assert Notes(path).of(MUTANT, source="other", tests="newer") is None
    notes.add(replace(of(killed=True, tests="newer"), noticing="what the test was"))
    notes.add(replace(of(killed=False, tests="newest"), left_out=("tests/a.py",)))
    told = Notes(path).of(MUTANT, source="s", tests="newest")
    assert told == of(killed=True, tests="newer"), "neither a test that has changed counts, nor one that was left out"


def test_the_document_tells_shares_and_survivors_and_keeps_explanations() -> None:
    other = Mutant("model", "mai/model/flops.py", 9, "return 1", "`1` became `2`", 40)
    found = [of(killed=True), of(killed=False), of(killed=False, mutant=other)]
    told = document(found, {other.key: "nobody reads it"}, commit="abc", number=3, seed=0)
    assert "| data | 2 | 1 | 0 | 50% |" in told
    assert "| model | 1 | 0 | 1 | - |" in told
    survivors, equivalent = told.split("## Equivalent")
    assert "- `mai/data/order.py:3`: `<` turned, to `>=`, in `return a < b`\n" in survivors
    assert "in `return 1`: nobody reads it\n" in equivalent


def test_explanations_are_of_lines_that_there_are() -> None:
    for key in explanations():
        room = next(room for room in ROOMS if key[0] in files_of(room))
        assert key in {mutant.key for mutant, _ in mutants_of(room, key[0])}, key


def test_a_file_s_own_test_and_those_of_its_folder_come_first() -> None:
    found = nearest_first("plan", "mai/plan/telling/proof_lines.py")
    nearest = ["tests/unit/plan/telling/test_proof_lines.py", "tests/unit/plan/telling"]
    assert found == [*nearest, *ROOMS["plan"].tests]
    found = nearest_first("plan", "mai/plan/communication/buckets.py")
    assert found[-1] == "tests/parity/test_programs_equal_engine.py"
    assert nearest_first("data", "mai/data/order.py") == ["tests/unit/data/test_order.py", *ROOMS["data"].tests]
    assert nearest_first("doors", "mai/cli.py") == list(ROOMS["doors"].tests)


def test_tests_in_a_copy_see_what_is_broken_there_and_one_that_hangs_has_noticed(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("LIMIT = 1\n")
    (tmp_path / "test_it.py").write_text(
        "import time\nfrom broken import LIMIT\n"
        "def test_limit():\n    time.sleep(60 * (LIMIT > 2))\n    assert LIMIT == 1\n"
    )
    copy = Copy(tmp_path)
    assert copy.test("test_it.py", timeout_seconds=60).passed
    # The same length, and within the second in which Python wrote the bytecode of the whole one.
    with copy.broken("broken.py", "LIMIT = 2\n"):
        answer = copy.test("test_it.py", timeout_seconds=60)
    assert (answer.passed, answer.noticed_by) == (False, "test_it.py::test_limit")
    with copy.broken("broken.py", "LIMIT = 3\n"):
        assert copy.test("test_it.py", timeout_seconds=5).noticed_by == TIME_RAN_OUT
    assert copy.test("test_it.py", timeout_seconds=60).passed


def test_a_machine_on_which_sound_code_takes_as_long_has_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Copy, "test", lambda *_, **__: Answer(passed=False, seconds=1.0, noticed_by=TIME_RAN_OUT))
    monkeypatch.setattr(Whole, "seconds", lambda *_: 1.0)
    monkeypatch.setattr(Copy, "_write", lambda *_: None)
    mutant, mutation = mutants_of("data", "mai/data/order.py")[0]
    assert noticed(Copy(ROOT), mutant, mutation, Whole()).passed


def test_who_noticed_is_read_from_what_pytest_says() -> None:
    assert first_failure("..F\nFAILED tests/a.py::b[c d] - assert 1 == 2\n1 failed in 1 s") == "tests/a.py::b[c d]"
    assert first_failure("Segmentation fault\n") == "Segmentation fault"
