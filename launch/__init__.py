"""From a recipe to running processes; knows mai, and mai knows it not."""

from launch.environment import RankEnvironmentError, rank_from_environment
from launch.local import run_ranks
from launch.rank_process import exit_code_of

__all__ = ["RankEnvironmentError", "exit_code_of", "rank_from_environment", "run_ranks"]
