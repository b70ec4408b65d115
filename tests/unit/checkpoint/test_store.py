"""What is committed, in which order it becomes so, and what goes."""

import os
from pathlib import Path
from typing import Any

import pytest

from mai.checkpoint import store


def commit(checkpoints: Path, step: int, *, content: str = "new") -> Path:
    temporary, final = store.temporary_folder(checkpoints, step, 1), store.step_folder(checkpoints, step)
    temporary.mkdir(parents=True)
    (temporary / "rank-00000.safetensors").write_text(content)
    store.commit(temporary, final, "{}")
    return final


def test_a_commit_is_the_folder_under_its_final_name(tmp_path: Path) -> None:
    final = commit(tmp_path, 10)
    assert sorted(path.name for path in final.iterdir()) == ["manifest.json", "rank-00000.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000000010"]
    assert store.committed_steps(tmp_path) == [10]


def test_only_finished_names_count(tmp_path: Path) -> None:
    for name in (".tmp-0000000030-1", ".trash-step-0000000020", "step-5", "step-0000000010-copy", "step-00000000100"):
        (tmp_path / name).mkdir()
    commit(tmp_path, 40)
    assert store.committed_steps(tmp_path) == [40]
    assert store.committed_steps(tmp_path / "not there") == []


def test_the_manifest_is_durable_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, Path.rename

    def told_sync(descriptor: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    def told_rename(path: Path, target: Any) -> Path:
        calls.append(f"rename {path.name} {Path(target).name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", told_sync)
    monkeypatch.setattr(Path, "rename", told_rename)
    commit(tmp_path, 10)
    assert calls == [
        "sync manifest.json",
        "sync .tmp-0000000010-1",
        "rename .tmp-0000000010-1 step-0000000010",
        f"sync {tmp_path.name}",
    ]


def test_a_step_that_was_found_damaged_is_replaced(tmp_path: Path) -> None:
    commit(tmp_path, 10, content="old")
    final = commit(tmp_path, 10, content="new")
    assert (final / "rank-00000.safetensors").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000010"]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        commit(tmp_path, step)
    store.keep_newest(tmp_path, 2, newest=30)
    assert store.committed_steps(tmp_path) == [20, 30]


def test_a_damaged_later_step_does_not_take_the_place_of_the_one_just_committed(tmp_path: Path) -> None:
    for step in (10, 20, 12):
        commit(tmp_path, step)
    store.keep_newest(tmp_path, 1, newest=12)
    assert store.committed_steps(tmp_path) == [12, 20]


def test_a_sweep_removes_what_a_dead_attempt_left_and_nothing_else(tmp_path: Path) -> None:
    commit(tmp_path, 10)
    for name in (".tmp-0000000020-3", ".trash-step-0000000005"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank-00000.safetensors").write_text("half")
    store.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000010"]
