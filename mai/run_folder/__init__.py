"""The run folder on disk: what runs, where it stands, what happened, and who owns it."""

from mai.run_folder.disk import (
    naming_storage_errors,
    open_for_appending,
    plain_json,
    sync_folder,
    utc_now,
    whole_or_nothing,
)
from mai.run_folder.folder import DRY_RUN, STEP_NAME, RunFolder, Terminal, surviving
from mai.run_folder.origin import Origin, origin_of

__all__ = [
    "DRY_RUN",
    "STEP_NAME",
    "Origin",
    "RunFolder",
    "Terminal",
    "naming_storage_errors",
    "open_for_appending",
    "origin_of",
    "plain_json",
    "surviving",
    "sync_folder",
    "utc_now",
    "whole_or_nothing",
]
