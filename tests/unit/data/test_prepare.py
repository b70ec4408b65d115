"""A prepared folder is whole, the same whoever makes it, and never mistaken for another recipe's."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mai.data.documents import find_pieces, read_piece
from mai.data.index import Dataset
from mai.data.loader import open_dataset
from mai.data.prepare import prepare
from mai.errors import DataError, ExitCode, RecipeError, StorageError
from mai.recipe.recipe import Recipe, to_dict
from tests.unit.data.conftest import write_documents


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_the_shards_give_back_the_documents_of_each_split(make_recipe, corpus):
    dataset = prepare(make_recipe(), workers=1).dataset
    found = set()
    for name in ("train", "held_out"):
        shards = dataset.shards(name)
        record = dataset.manifest.splits[name]
        text = dataset.token_text().decode(shards.tokens(0, shards.num_tokens)).tobytes()
        documents = text.removesuffix(b"\0").split(b"\0")
        assert record.num_documents == len(documents)
        assert record.text_bytes == sum(map(len, documents))
        offsets = dataset.document_offsets(name)
        assert offsets[0] == 0
        assert offsets[-1] == record.num_tokens
        assert all(shards.tokens(int(stop) - 1, 1)[0] == dataset.manifest.end_token for stop in offsets[1:])
        found |= set(documents)
    assert found == {path.read_bytes() for path in corpus.iterdir()}


@pytest.mark.slow
def test_any_number_of_workers_writes_the_same_bytes(make_recipe, tmp_path):
    write_documents(tmp_path / "more", number=30, words=6000)  # several groups for each process
    recipes = [make_recipe(documents=(str(tmp_path / "more"),), folder=str(tmp_path / name)) for name in ("one", "two")]
    for workers, recipe in enumerate(recipes, start=1):
        assert prepare(recipe, workers=workers).is_new
    assert contents(recipes[0].data.folder) == contents(recipes[1].data.folder)


def test_preparing_again_finds_it_prepared_whatever_the_sequence_length(make_recipe):
    first = prepare(make_recipe(), workers=1)
    before = contents(make_recipe().data.folder)
    second = prepare(make_recipe(sequence_length=32), workers=1)
    assert (first.is_new, second.is_new) == (True, False)
    assert second.dataset == first.dataset
    assert contents(make_recipe().data.folder) == before


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("data.documents", {"documents": ("python:stdlib",)}),
        ("model.vocab_size", {"vocab_size": 301}),
        ("data.held_out_fraction", {"held_out_fraction": 0.4}),
    ],
)
def test_a_folder_of_another_recipe_is_refused_and_replaced_only_when_asked(make_recipe, field, change):
    prepare(make_recipe(), workers=1)
    with pytest.raises(DataError, match=rf"another recipe \({field}: prepared for .*--again") as caught:
        prepare(make_recipe(**change), workers=1)
    assert caught.value.code is ExitCode.DATA
    with pytest.raises(DataError, match=field):
        open_dataset(make_recipe(**change))
    if field == "model.vocab_size":
        assert prepare(make_recipe(**change), workers=1, again=True).dataset.manifest.num_ids == 301


def test_a_corpus_that_changed_since_is_refused(make_recipe, corpus):
    prepare(make_recipe(), workers=1)
    (corpus / "0000.txt").write_text("something else")
    with pytest.raises(DataError, match=r"prepared from other text than data\.documents holds now"):
        prepare(make_recipe(), workers=1)


def test_touching_a_file_changes_nothing(make_recipe, corpus):
    prepare(make_recipe(), workers=1)
    os.utime(corpus / "0000.txt", (0, 0))
    assert not prepare(make_recipe(), workers=1).is_new


def test_a_tokenizer_json_is_used_and_belongs_to_the_folder(make_recipe, tmp_path):
    trained = Path(prepare(make_recipe(), workers=1).dataset.folder, "tokenizer.json")
    copy = tmp_path / "tokenizer.json"
    copy.write_bytes(trained.read_bytes())
    recipe = make_recipe(tokenizer=str(copy), folder=str(tmp_path / "loaded"))
    prepare(recipe, workers=1)
    assert (tmp_path / "loaded" / "train-00000.bin").read_bytes() == (trained.parent / "train-00000.bin").read_bytes()
    copy.write_text(copy.read_text() + "\n")
    with pytest.raises(DataError, match=r"data\.tokenizer: .*tokenizer\.json has changed since"):
        open_dataset(recipe)


def test_a_run_that_starts_from_another_one_reads_what_that_one_read(make_recipe, tmp_path):
    """Its tokenizer is the other run's, the very one of this folder; another one is refused by its path."""
    folder = prepare(make_recipe(), workers=1).dataset.folder
    origin = tmp_path / "origin"
    origin.mkdir()
    shutil.copyfile(folder / "tokenizer.json", origin / "tokenizer.json")
    recipe = make_recipe()
    recipe = replace(recipe, checkpoint=replace(recipe.checkpoint, start_from=str(origin)))
    assert not prepare(recipe, workers=1).is_new
    other = json.loads((folder / "tokenizer.json").read_text())
    other["model"]["merges"].reverse()
    (origin / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match=re.escape(f"prepared for None, the recipe says '{origin}/tokenizer.json'")):
        prepare(recipe, workers=1)


def test_documents_that_the_tokenizer_normalises_are_counted_and_their_bytes_are_the_tokens(
    make_recipe, corpus, tmp_path
):
    tokenizer = json.loads((prepare(make_recipe(), workers=1).dataset.folder / "tokenizer.json").read_text())
    (tmp_path / "nfc.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "NFC"}}))
    (corpus / "e.txt").write_text("cafe\u0301 is longer before NFC than after")
    recipe = make_recipe(tokenizer=str(tmp_path / "nfc.json"), folder=str(tmp_path / "nfc"))
    manifest = prepare(recipe, workers=1).dataset.manifest
    assert manifest.num_altered == 1
    kept = sum(len(document.content) for piece in find_pieces([str(corpus)]) for document in read_piece(piece))
    assert sum(split.text_bytes for split in manifest.splits.values()) == kept - 1


def test_a_folder_with_other_peoples_files_is_refused_and_left_as_it_is(make_recipe, tmp_path):
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "tokenizer.json").write_text("mine")
    for again in (False, True):
        with pytest.raises(DataError, match="holds files, but no prepared dataset"):
            prepare(make_recipe(), workers=1, again=again)
    (tmp_path / "prepared" / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match="holds files, but no prepared dataset"):
        prepare(make_recipe(), workers=1, again=True)
    assert sorted(contents(str(tmp_path / "prepared"))) == ["dataset.json", "tokenizer.json"]


def test_a_folder_that_is_a_file_is_refused(make_recipe, corpus):
    with pytest.raises(DataError, match=r"data\.folder=.* is a file"):
        prepare(make_recipe(folder=str(corpus / "0000.txt")), workers=1)


def test_a_vocabulary_that_bytes_do_not_fit_is_refused_before_anything_is_written(make_recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"model\.vocab_size=100"):
        prepare(make_recipe(vocab_size=100), workers=1)
    assert not (tmp_path / "prepared").exists()


def test_a_storage_that_is_full_leaves_nothing_that_is_taken_for_whole(make_recipe, tmp_path):
    with largest_file_bytes(4096), pytest.raises(StorageError, match=r"data\.folder=.*choose another folder"):
        prepare(make_recipe(), workers=1)
    assert list(contents(str(tmp_path / "prepared"))) == [".lock"]
    assert prepare(make_recipe(), workers=1).is_new


@contextmanager
def largest_file_bytes(limit: int) -> Iterator[None]:
    """Writing more fails as a full disk does, with OSError in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def start_preparing(recipe: Recipe) -> subprocess.Popen[bytes]:
    """`prepare` in a process of its own, stopped at the moment when the first shard has begun."""
    script = (
        "import json, sys; from pydantic import TypeAdapter; from mai.recipe.recipe import Recipe;"
        "from mai.data.prepare import prepare;"
        "prepare(TypeAdapter(Recipe).validate_json(sys.argv[1]), workers=2)"
    )
    command = [sys.executable, "-c", script, json.dumps(to_dict(recipe))]
    process = subprocess.Popen(
        command, start_new_session=True, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL
    )
    shard = Path(recipe.data.folder, ".preparing", "train-00000.bin")
    while process.poll() is None and not shard.exists():
        time.sleep(0.002)
    assert process.poll() is None, "it ended before it could be killed"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_kill_half_way_leaves_nothing_taken_for_whole_and_no_process(make_recipe, tmp_path, number):
    write_documents(tmp_path / "large", number=24, words=12_000)
    recipe = make_recipe(documents=(str(tmp_path / "large"),))
    process = start_preparing(recipe)
    process.send_signal(number)
    process.wait(timeout=60)

    with pytest.raises(DataError, match="holds no prepared dataset"):
        Dataset.open(Path(recipe.data.folder))
    wait_until_gone(process.pid)

    assert prepare(recipe, workers=1).is_new
    undisturbed = replace(recipe, data=replace(recipe.data, folder=str(tmp_path / "undisturbed")))
    prepare(undisturbed, workers=1)
    assert contents(recipe.data.folder) == contents(undisturbed.data.folder)


def wait_until_gone(process_group: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(process_group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process_group, signal.SIGKILL)
    pytest.fail("a process outlived the one that was killed")


@pytest.mark.slow
def test_two_at_once_prepare_it_once(make_recipe, tmp_path):
    write_documents(tmp_path / "large", number=24, words=12_000)
    recipe = make_recipe(documents=(str(tmp_path / "large"),))
    first = start_preparing(recipe)
    assert not prepare(recipe, workers=1).is_new
    assert first.wait(timeout=60) == 0
