"""What a run writes of itself."""

from mai.errors import ExitCode
from mai.train.records import good_end, plain_layout


def test_a_good_end_says_where_it_stands_and_what_is_next() -> None:
    end = good_end(ExitCode.PREEMPTED, step=7, steps=20, last_committed_step=7, dry_run=False)
    assert (end.code, end.name, end.culprit, end.evidence) == (210, "PREEMPTED", None, "step 7 of 20")
    assert "start the same command again" in end.suggestion


def test_an_end_before_the_first_step_promises_no_checkpoint() -> None:
    end = good_end(ExitCode.STOPPED, step=0, steps=20, last_committed_step=None, dry_run=False)
    assert "checkpoint" not in end.suggestion


def test_a_dry_run_ends_well_and_says_that_it_was_one() -> None:
    end = good_end(ExitCode.COMPLETE, step=7, steps=20, last_committed_step=7, dry_run=True)
    assert (end.code, end.phase, end.evidence) == (0, "dry run", "step 7 of 20")
    assert "without --dry-run" in end.suggestion


def test_a_layout_reads_as_people_say_it() -> None:
    assert plain_layout({"tensor": 2, "pipeline": 1, "data": 4}) == "tensor 2, pipeline 1, data 4"
