"""Whose fault it was, decided from a list of ends."""

import signal

import pytest

from launch.verdict import SUGGESTIONS, RankEnd, code_and_reason, find_culprit, job_code, paragraph
from mai.errors import ExitCode


def end(rank: int, code: ExitCode, *, at: float, is_killed: bool = False, reason: str = "reason") -> RankEnd:
    return RankEnd(
        rank=rank, pid=1000 + rank, code=code, seconds=at, is_killed=is_killed, reason=reason, evidence=reason
    )


@pytest.mark.parametrize(
    ("ends", "culprit", "code"),
    [
        pytest.param(
            [end(0, ExitCode.PEER_LOST, at=1), end(1, ExitCode.DATA, at=2)], 1, ExitCode.DATA, id="victim ends first"
        ),
        pytest.param(
            [end(0, ExitCode.STORAGE, at=1), end(1, ExitCode.CHECKPOINT, at=2)],
            1,
            ExitCode.CHECKPOINT,
            id="permanent beats retryable",
        ),
        pytest.param(
            [end(0, ExitCode.CRASH, at=1), end(1, ExitCode.CONFIG, at=2)],
            1,
            ExitCode.CONFIG,
            id="permanent beats unclassified",
        ),
        pytest.param(
            [end(0, ExitCode.DATA, at=3), end(1, ExitCode.CONFIG, at=2)], 1, ExitCode.CONFIG, id="the first of equals"
        ),
        pytest.param(
            [end(0, ExitCode.CRASH, at=1), end(1, ExitCode.PEER_LOST, at=2, is_killed=True)],
            1,
            ExitCode.PEER_LOST,
            id="a kill from outside beats the crashes it causes",
        ),
        pytest.param(
            [end(0, ExitCode.CRASH, at=2, is_killed=True), end(1, ExitCode.CRASH, at=1)],
            1,
            ExitCode.CRASH,
            id="a victim that its runtime aborts",
        ),
        pytest.param(
            [end(0, ExitCode.PEER_LOST, at=1), end(1, ExitCode.CRASH, at=2)],
            1,
            ExitCode.CRASH,
            id="a crash beats its victim",
        ),
        pytest.param(
            [end(0, ExitCode.STOPPED, at=1), end(1, ExitCode.PEER_LOST, at=2)],
            1,
            ExitCode.PEER_LOST,
            id="a stop that one rank did not survive is not a stop",
        ),
        pytest.param([end(0, ExitCode.COMPLETE, at=1), end(1, ExitCode.COMPLETE, at=2)], None, 0, id="complete"),
        pytest.param([end(0, ExitCode.PREEMPTED, at=1), end(1, ExitCode.PREEMPTED, at=2)], None, 210, id="preempted"),
        pytest.param([end(0, ExitCode.STOPPED, at=1), end(1, ExitCode.STOPPED, at=2)], None, 87, id="stopped"),
        pytest.param([end(0, ExitCode.PREEMPTED, at=1), end(1, ExitCode.COMPLETE, at=2)], None, 210, id="mixed"),
    ],
)
def test_the_jobs_code_is_the_culprits(ends: list[RankEnd], culprit: int | None, code: int) -> None:
    found = find_culprit(ends)
    assert (found.rank if found else None, job_code(ends)) == (culprit, code)


@pytest.mark.parametrize(
    ("wait_status", "is_oom_kill", "code"),
    [
        (0, False, ExitCode.COMPLETE),
        (81 << 8, False, ExitCode.DATA),
        (3 << 8, False, ExitCode.CRASH),
        (139 << 8, False, ExitCode.CRASH),
        (signal.SIGKILL, False, ExitCode.PEER_LOST),
        (signal.SIGKILL, True, ExitCode.OUT_OF_MEMORY),
        (signal.SIGHUP, False, ExitCode.PEER_LOST),
        (signal.SIGTERM, False, ExitCode.PREEMPTED_UNSAVED),
        (signal.SIGSEGV, False, ExitCode.CRASH),
        (signal.SIGABRT | 0x80, False, ExitCode.CRASH),
        (signal.SIGRTMIN + 5, False, ExitCode.PEER_LOST),
    ],
)
def test_an_end_without_a_word(wait_status: int, is_oom_kill: bool, code: ExitCode) -> None:  # noqa: FBT001
    assert code_and_reason(wait_status, relayed={signal.SIGTERM}, is_oom_kill=is_oom_kill)[0] is code


def test_every_code_but_success_has_a_suggestion() -> None:
    assert SUGGESTIONS.keys() == set(ExitCode) - {ExitCode.COMPLETE}


def test_the_paragraph_says_who_why_where_and_what_next() -> None:
    text = paragraph(
        ExitCode.DATA, end(3, ExitCode.DATA, at=1, reason="shard 7 is damaged"), log="runs/try/logs/rank-00003.log"
    )
    assert text.splitlines() == [
        "mai: DATA (exit code 81): rank 3 (pid 1003): shard 7 is damaged",
        "  log: runs/try/logs/rank-00003.log",
        f"  next: {SUGGESTIONS[ExitCode.DATA]}",
    ]


def test_a_quoted_escape_sequence_does_not_reach_the_terminal() -> None:
    text = paragraph(ExitCode.DATA, end(0, ExitCode.DATA, at=1, reason="file \x1b[2J\udc80.txt\nsecond"), log="log")
    assert "\x1b" not in text
    assert r"\x1b[2J\udc80.txt" in text
