"""Data that cannot be trained on ends a run with 81 and names the file; what was committed stays."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mai.recipe import Recipe
from tests.fault.small_run import assert_failed_well, committed, resumed_at, train
from tests.jobs import Job

Launch = Callable[..., Job]


def write_nothing(_: Path) -> None: ...


def write_empty_file(path: Path) -> None:
    path.write_bytes(b"")


def write_no_text(path: Path) -> None:
    path.mkdir()
    for number in range(3):
        (path / f"{number}.txt").write_bytes(b"caf\xe9 \xff\xfe" * 100)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (write_nothing, "there is no such file or folder"),
        (write_empty_file, "empty"),
        (write_no_text, "not_utf8"),
    ],
)
def test_a_corpus_that_holds_no_text_is_named(
    write: Callable[[Path], None], says: str, prepared: Recipe, tmp_path: Path, launch: Launch
) -> None:
    folder, documents, data = tmp_path / "run", tmp_path / "corpus.txt", tmp_path / "prepared"
    write(documents)
    job = launch(train(prepared, folder, f"data.documents={documents}", f"data.folder={data}"), folder=folder)
    assert job.exit_code() == 81, job.stderr
    for part in ("DATA (exit code 81)", str(documents), says):
        assert part in job.stderr
    assert "Traceback" not in job.stderr
    assert not folder.exists()
    assert not (data / "dataset.json").exists()
    assert job.left_behind() == []


@pytest.fixture
def own_data(prepared: Recipe, tmp_path: Path) -> Path:
    """A copy of the prepared folder, to damage."""
    return Path(shutil.copytree(prepared.data.folder, tmp_path / "prepared"))


def test_a_tokenizer_that_did_not_write_the_shards_is_refused(
    prepared: Recipe, own_data: Path, tmp_path: Path, launch: Launch
) -> None:
    folder = tmp_path / "run"
    path = own_data / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"<|end|>", b"<|END|>"))
    job = launch(train(prepared, folder, f"data.folder={own_data}", "parallel.data=2"), folder=folder)
    assert_failed_well(job, 81, "DATA")
    assert "they do not belong together" in job.stderr
    assert str(path) in job.stderr
    assert "mai prepare with --again" in job.stderr


def test_a_flipped_byte_in_a_shard_is_found_before_a_step_and_the_run_goes_on_when_it_is_mended(
    prepared: Recipe, own_data: Path, tmp_path: Path, launch: Launch
) -> None:
    folder = tmp_path / "run"
    command = train(prepared, folder, f"data.folder={own_data}", "parallel.data=2")
    assert launch([*command, "--stop-at", "2"], folder=folder).exit_code() == 87
    shard = max(own_data.glob("*.bin"), key=lambda path: path.stat().st_size)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    job = launch(command, folder=folder)
    assert_failed_well(job, 81, "DATA")
    assert f"{shard} is not as it was written" in job.stderr
    assert job.step() == 2
    assert committed(folder) == [2]
    shard.write_bytes(whole)
    mended = launch([*command, "--stop-at", "3"], folder=folder)
    assert mended.exit_code() == 87, mended.stderr
    assert resumed_at(mended) == 2


def test_data_that_changed_since_the_checkpoint_is_refused(prepared: Recipe, tmp_path: Path, launch: Launch) -> None:
    folder, documents, data = tmp_path / "run", tmp_path / "documents", tmp_path / "prepared"
    shutil.copytree(prepared.data.documents[0], documents)
    command = train(prepared, folder, f"data.documents={documents}", f"data.folder={data}")
    assert launch([*command, "--stop-at", "2"], folder=folder).exit_code() == 87
    shutil.rmtree(data)
    next(documents.glob("*.py")).write_text("# Other text than before.\n")
    job = launch(command, folder=folder)
    assert_failed_well(job, 82, "CHECKPOINT")
    assert "is not what this run has read so far" in job.stderr
    assert committed(folder) == [2]
