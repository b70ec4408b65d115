"""make mutants ARGS="--rooms data model --number 40 --seed 1": would the tests notice?

Draws single mutations, applies each to a copy of the tree, runs its room's tests there, and writes docs/mutants.md if
all rooms were asked for. An interrupted run goes on where it was: what was found is kept in .mutants/, while the file
and the test that noticed, or for a survivor all tests, are as they were.
"""

import argparse
import hashlib
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from tests.mutants.copy import TIME_RAN_OUT, Answer, Copy, copied
from tests.mutants.mutations import Mutation, mutations_of
from tests.mutants.results import (
    DOCUMENT,
    Found,
    Mutant,
    Notes,
    commit,
    digest_of_test,
    digest_of_tests,
    document,
    explanations,
)
from tests.mutants.rooms import ROOMS, ROOT, files_of, nearest_first

LEAST_OF_A_ROOM = 4
LONGEST_SECONDS = 3600.0
"""Of tests of a whole tree; those of a broken one may take three times as long as they did, and a minute."""
Drawn = tuple[Mutant, Mutation]


def main(words: Sequence[str]) -> None:
    asked = asked_for(words)
    notes, began_at = Notes(ROOT / f".mutants/seed-{asked.seed}.jsonl"), commit()
    drawn = draw(asked.rooms, asked.number, seed=asked.seed)
    # Now, as the copies are made now: whoever edits the tree meanwhile changes nothing of what is tried.
    sources = {mutant.file: digest(mutant.file) for mutant, _ in drawn}
    tests = {room: digest_of_tests(room) for room in asked.rooms}
    explained = explanations()
    known = {
        mutant: notes.of(
            mutant, source=sources[mutant.file], tests=tests[mutant.room], is_explained=mutant.key in explained
        )
        for mutant, _ in drawn
    }
    found = {mutant: one for mutant, one in known.items() if one is not None}
    say(f"{len(drawn)} mutants, {len(found)} of them known from before")
    left = [one for one in drawn if one[0] not in found]
    for mutant, answer, left_out in tried(left, at_once=asked.at_once):
        found[mutant] = Found(
            mutant,
            sources[mutant.file],
            tests[mutant.room],
            killed=not answer.passed,
            noticed_by=answer.noticed_by,
            noticing=digest_of_test(answer.noticed_by),
            left_out=left_out,
            seconds=answer.seconds,
        )
        notes.add(found[mutant])
        verdict = "SURVIVED" if answer.passed else f"killed by {answer.noticed_by}"
        say(f"{mutant.file}:{mutant.line} {mutant.kind}: {verdict}, {answer.seconds:.0f} s")
    in_order = [found[mutant] for mutant, _ in drawn]
    say(f"{sum(one.killed for one in in_order)} of {len(in_order)} killed")
    if list(asked.rooms) == list(ROOMS):
        told = document(in_order, explained, commit=began_at, number=asked.number, seed=asked.seed)
        DOCUMENT.write_text(told)
        say(f"{DOCUMENT.relative_to(ROOT)} is written")


def asked_for(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--number", type=int, default=220, help="Mutants, shared out over rooms by their code.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=1, help="Copies of the tree that are tested side by side.")
    return parser.parse_args(words)


def draw(rooms: Sequence[str], number: int, *, seed: int) -> list[Drawn]:
    """So many, shared out over rooms by the mutations that each has; the same ones for the same files and seed."""
    candidates = {room: [one for file in files_of(room) for one in mutants_of(room, file)] for room in rooms}
    all_of_them = sum(map(len, candidates.values()))
    drawn: list[Drawn] = []
    for room, ones in candidates.items():
        share = max(LEAST_OF_A_ROOM, round(number * len(ones) / all_of_them))
        # Of its own seed: what one room draws does not hang on the others.
        random.Random(f"{seed} {room}").shuffle(ones)
        are_code = (one for one in ones if one[1].is_code((ROOT / one[0].file).read_text()))
        drawn += [one for one, _ in zip(are_code, range(share), strict=False)]
    return drawn


def mutants_of(room: str, file: str) -> list[Drawn]:
    """All of a file, in order."""
    source = (ROOT / file).read_text()
    lines, seen = source.splitlines(), Counter[tuple[str, str]]()
    found = []
    for one in sorted(mutations_of(source), key=lambda one: one.start):
        code = lines[one.line - 1].strip()
        found.append((Mutant(room, file, one.line, code, one.kind, one.start, seen[code, one.kind]), one))
        seen[code, one.kind] += 1
    return found


def tried(drawn: Sequence[Drawn], *, at_once: int) -> Iterator[tuple[Mutant, Answer, tuple[str, ...]]]:
    """What the tests say of each, as they are done, and which of them were left out."""
    copies: SimpleQueue[Copy] = SimpleQueue()
    whole = Whole()

    def try_one(one: Drawn) -> tuple[Mutant, Answer, tuple[str, ...]]:
        copy = copies.get()
        try:
            answer = noticed(copy, *one, whole)
            return one[0], answer, whole.left_out(one[0].room)
        finally:
            copies.put(copy)

    with ExitStack() as stack, ThreadPoolExecutor(at_once) as threads:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in range(at_once):
            copies.put(stack.enter_context(copied(folder / str(number))))
        yield from (done.result() for done in as_completed([threads.submit(try_one, one) for one in drawn]))


def noticed(copy: Copy, mutant: Mutant, mutation: Mutation, whole: "Whole") -> Answer:
    """What the first of the room's tests that notices says, or the last."""
    source, took = (copy.folder / mutant.file).read_text(), 0.0
    for tests in nearest_first(mutant.room, mutant.file):
        seconds = whole.seconds(copy, tests)
        if seconds is None:
            continue
        limit_seconds = 3 * seconds + 60
        with copy.broken(mutant.file, mutation.applied_to(source)):
            answer = copy.test(tests, timeout_seconds=limit_seconds)
        took += answer.seconds
        if answer.noticed_by == TIME_RAN_OUT and not copy.test(tests, timeout_seconds=limit_seconds).passed:
            say(f"NOT COUNTED: {tests} takes as long where nothing is broken")
        elif not answer.passed and whole.passes(copy, answer.noticed_by):
            return Answer(passed=False, seconds=took, noticed_by=answer.noticed_by)
    return Answer(passed=True, seconds=took, noticed_by="")


class Whole:
    """How long tests take where nothing is broken, each found out when it is first asked."""

    def __init__(self) -> None:
        self._seconds: dict[str, float | None] = {}
        self._sound: dict[str, bool] = {}
        self._one_at_a_time = Lock()

    def seconds(self, copy: Copy, tests: str) -> float | None:
        """None where they fail all the same, twice: then they notice nothing."""
        with self._one_at_a_time:
            if tests not in self._seconds:
                answers = (copy.test(tests, timeout_seconds=LONGEST_SECONDS) for _ in range(2))
                self._seconds[tests] = next((answer.seconds for answer in answers if answer.passed), None)
                if self._seconds[tests] is None:
                    say(f"LEFT OUT: {tests} fails where nothing is broken")
            return self._seconds[tests]

    def left_out(self, room: str) -> tuple[str, ...]:
        """The room's tests that fail all the same."""
        of_parts = [tests for these in ROOMS[room].of_parts.values() for tests in these]
        return tuple(tests for tests in (*ROOMS[room].tests, *of_parts) if self._seconds.get(tests, 0.0) is None)

    def passes(self, copy: Copy, test: str) -> bool:
        """Whether the one that noticed passes where nothing is broken, now and alone: else it noticed the machine."""
        if "::" not in test:
            return True
        with self._one_at_a_time:
            if test not in self._sound:
                self._sound[test] = copy.test(test, timeout_seconds=LONGEST_SECONDS).passed
                if not self._sound[test]:
                    say(f"NOT COUNTED: {test} fails where nothing is broken")
            return self._sound[test]


def digest(file: str) -> str:
    return hashlib.sha256((ROOT / file).read_bytes()).hexdigest()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
