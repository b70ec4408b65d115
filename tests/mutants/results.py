"""What was found of each mutant, kept while it is true; and the document that tells of it."""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tomllib

from tests.mutants.rooms import ROOMS, ROOT

Key = tuple[str, str, str, int]
EXPLAINED = Path(__file__).parent / "explained.toml"
DOCUMENT = ROOT / "docs/mutants.md"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mutation of a file, as people find it again when lines have moved."""

    room: str
    file: str
    line: int
    code: str
    """The line that it changes, without what indents it."""
    kind: str
    start: int
    """The character of the file where it begins: tells apart two of a kind in one line."""
    number: int = 0
    """Which it is, of those of the file with the same line and kind."""

    @property
    def key(self) -> Key:
        return self.file, self.code, self.kind, self.number


@dataclass(frozen=True, slots=True)
class Found:
    mutant: Mutant
    source: str
    """SHA-256 of the file that was mutated."""
    tests: str
    """And of all tests."""
    killed: bool
    noticed_by: str
    """The test that failed, or what else told of it."""
    noticing: str
    """SHA-256 of that test's file; empty where there is none."""
    left_out: tuple[str, ...]
    """Tests of the room that fail where nothing is broken, and say nothing."""
    seconds: float


class Notes:
    """What was found so far, a line of a file each: a run that is interrupted goes on from there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self._found = [_from_json(line) for line in lines]

    def of(self, mutant: Mutant, *, source: str, tests: str, is_explained: bool = False) -> Found | None:
        """The newest word of it that still holds: a kill while the file and the test are the same, a survival while all
        tests are, of which none was left out. One that is explained is not tried again while the file is the same."""
        for found in reversed(self._found):
            is_same = (found.mutant.file, found.mutant.start, found.mutant.kind) == (
                mutant.file, mutant.start, mutant.kind,
            )  # fmt: skip
            holds = digest_of_test(found.noticed_by) == found.noticing if found.killed else found.tests == tests
            holds |= is_explained and not found.killed
            if is_same and found.source == source and holds and not found.left_out:
                return found
        return None

    def add(self, found: Found) -> None:
        self._found.append(found)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(found)) + "\n")


def _from_json(line: str) -> Found:
    values = json.loads(line)
    return Found(**{**values, "mutant": Mutant(**values["mutant"]), "left_out": tuple(values["left_out"])})


def digest_of_tests(room: str) -> str:
    """SHA-256 over every file of tests/ but this tool's, and which of them are the room's."""
    digest = hashlib.sha256(repr((ROOMS[room].tests, ROOMS[room].of_parts)).encode())
    for path in sorted((ROOT / "tests").rglob("*")):
        if path.is_file() and path.parent != Path(__file__).parent and path.suffix in _SUFFIXES:
            digest.update(path.read_bytes())
    return digest.hexdigest()


_SUFFIXES = (".py", ".json", ".toml", ".txt")


def digest_of_test(noticed_by: str) -> str:
    """SHA-256 of the file of a test, `path::name`."""
    path = ROOT / noticed_by.partition("::")[0]
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def explanations() -> dict[Key, str]:
    """Why a mutant changes nothing that anybody could notice, by `Mutant.key`."""
    entries = tomllib.loads(EXPLAINED.read_text())["mutant"]
    return {(entry["file"], entry["code"], entry["change"], entry.get("number", 0)): entry["why"] for entry in entries}


def document(found: Sequence[Found], explained: Mapping[Key, str], *, commit: str, number: int, seed: int) -> str:
    """docs/mutants.md."""
    survivors = [one for one in found if not one.killed]
    equivalent = [one for one in survivors if one.mutant.key in explained]
    unnoticed = [one for one in survivors if one.mutant.key not in explained]
    killed = len(found) - len(survivors)
    rows = [_row(room, [one for one in found if one.mutant.room == room], explained) for room in ROOMS]
    head = f"""# Mutants

Would the tests notice? `make mutants` draws single mutations of mai's code, applies each to a copy of the tree and runs
the tests of its room (`tests/mutants/rooms.py`) until one fails. Not drawn is what cannot change behaviour (messages,
type hints, docstrings, imports, asserts) and what no CPU reaches: `mai/kernels/gpu`, `mai/kernels/cuda`, apex.

Drawn of commit {commit} with `ARGS="--number {number} --seed {seed}"`: {len(found)} mutants, of which {killed} were
noticed and {len(equivalent)} change nothing. Of those that change something,
{_share(killed, killed + len(unnoticed))} were noticed.

| room | drawn | noticed | equivalent | share |
|---|---|---|---|---|
"""
    left_out = sorted({tests for one in found for tests in one.left_out})
    return "\n".join(
        [
            head + "\n".join(filter(None, rows)),
            *([f"\nLeft out, as they fail where nothing is broken: {', '.join(left_out)}."] if left_out else []),
            "\n## Survivors\n",
            *([_told(one) for one in unnoticed] or ["None."]),
            "\n## Equivalent\n",
            *([f"{_told(one)}: {explained[one.mutant.key]}" for one in equivalent] or ["None."]),
            "",
        ]
    )


def _row(room: str, found: Sequence[Found], explained: Iterable[Key]) -> str:
    if not found:
        return ""
    killed = sum(one.killed for one in found)
    equivalent = sum(not one.killed and one.mutant.key in set(explained) for one in found)
    return f"| {room} | {len(found)} | {killed} | {equivalent} | {_share(killed, len(found) - equivalent)} |"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "-"


def _told(one: Found) -> str:
    mutant = one.mutant
    return f"- `{mutant.file}:{mutant.line}`: {mutant.kind}, in `{mutant.code.replace('`', '')}`"


def commit() -> str:
    """Of the tree, with a word where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    head, changes = (
        subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
    )
    return f"{head} with changes" if changes else head
