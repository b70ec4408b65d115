"""What is to run on how many ranks, whoever starts them: the one thing that a launcher is given."""

from dataclasses import dataclass

from launch.rank_process import RankMain
from mai.recipe import ResilienceConfig
from mai.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One attempt at some work."""

    num_ranks: int
    rank_main: RankMain
    """Runs in each rank with its place; its result is the rank's exit code."""
    folder: RunFolder
    """Where the launcher says how it ended, beside what the ranks write."""
    attempt: int
    """Its number, which was begun in the folder."""
    grace_seconds: float = 10.0
    """How long the other ranks may go on after one has failed."""
    closing_seconds: float = ResilienceConfig().closing_seconds
    """The same after one has ended well."""
