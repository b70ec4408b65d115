"""The kernel's counter of out-of-memory kills."""

from launch.out_of_memory import num_oom_kills


def test_nobody_was_killed_between_two_looks() -> None:
    before = num_oom_kills()
    assert before >= 0
    assert num_oom_kills() == before
