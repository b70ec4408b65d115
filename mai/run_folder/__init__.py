"""The run folder on disk: what runs, where it stands, what happened, and who owns it."""

from mai.run_folder.disk import (
    naming_storage_errors,
    open_for_appending,
    plain_json,
    sync_folder,
    utc_now,
    whole_or_nothing,
)
from mai.run_folder.folder import DRY_RUN, RunFolder, Terminal, surviving

__all__ = [
    "DRY_RUN",
    "RunFolder",
    "Terminal",
    "naming_storage_errors",
    "open_for_appending",
    "plain_json",
    "surviving",
    "sync_folder",
    "utc_now",
    "whole_or_nothing",
]
