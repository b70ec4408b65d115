"""From a recipe to running processes; knows mai, and mai knows it not."""

from launch.environment import RankEnvironmentError, rank_from_environment
from launch.job import Job
from launch.local import run_ranks

__all__ = ["Job", "RankEnvironmentError", "rank_from_environment", "run_ranks"]
