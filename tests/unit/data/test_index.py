"""A prepared folder is checked before it is trusted, and read across its shards."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mai.data.dataset_manifest import token_type_of
from mai.data.index import Dataset, TokenShards
from mai.data.prepare import prepare
from mai.data.writer import SplitWriter
from mai.errors import DataError


@pytest.fixture
def dataset(make_recipe) -> Dataset:
    return prepare(make_recipe(), workers=1).dataset


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_tokens_are_read_across_shards(tmp_path):
    documents = [np.arange(start, start + length, dtype=np.uint32) for start, length in ((1, 5), (10, 1), (20, 17))]
    writer = SplitWriter(tmp_path, "train", token_type=np.dtype("<u2"), end_token=0, shard_tokens=4)
    for document in documents:
        writer.append(document, text_bytes=len(document))
    record = writer.close()
    stream = [token for document in documents for token in (*document, 0)]
    assert record.num_tokens == len(stream)
    assert record.text_bytes == 23
    assert len(record.shards) == 7
    maps = [np.memmap(tmp_path / name, dtype="<u2", mode="r") for name in record.shards]
    shards = TokenShards(maps, num_ids=100, name="test")
    for start in range(len(stream)):
        for length in range(len(stream) - start + 1):
            assert shards.tokens(start, length).tolist() == stream[start : start + length]


@pytest.mark.parametrize(("num_ids", "bytes_each"), [(257, 2), (2**16, 2), (2**16 + 1, 4)])
def test_a_token_takes_as_many_bytes_as_the_vocabulary_needs(tmp_path, num_ids, bytes_each):
    writer = SplitWriter(tmp_path, "train", token_type=token_type_of(num_ids), end_token=0)
    writer.append(np.array([num_ids - 1], np.uint32), text_bytes=1)
    (name,) = writer.close().shards
    assert writer.files[name].num_bytes == 2 * bytes_each
    assert np.fromfile(tmp_path / name, token_type_of(num_ids)).tolist() == [num_ids - 1, 0]


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 11), (10, 1), (3, -1)])
def test_nothing_outside_of_the_stream_is_read(start, length):
    with pytest.raises(AssertionError):
        TokenShards([np.zeros(10, np.uint16)], num_ids=1, name="test").tokens(start, length)


def test_a_token_outside_of_the_vocabulary_never_reaches_the_model():
    shards = TokenShards([np.array([1, 2, 300], np.uint16)], num_ids=300, name="folder, train")
    assert shards.tokens(0, 2).tolist() == [1, 2]
    with pytest.raises(
        DataError, match=r"folder, train: token 300 between 0 and 3 is outside of the vocabulary of 300"
    ):
        shards.tokens(0, 3)


def test_a_whole_folder_is_verified(dataset):
    Dataset.open(dataset.folder).verify()


@pytest.mark.parametrize("change", ["cut short", "too long"])
def test_a_file_of_another_size_is_named_when_the_folder_is_opened(dataset, change):
    for name, record in dataset.manifest.files.items():
        path = dataset.folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] if change == "cut short" else content + b"\0")
        with pytest.raises(
            DataError, match=rf"{name} has \d+ bytes where dataset.json says {record.num_bytes}.*{change}"
        ):
            Dataset.open(dataset.folder)
        path.write_bytes(content)


def test_a_missing_file_is_named_when_the_folder_is_opened(dataset):
    (dataset.folder / "train-00000.bin").unlink()
    with pytest.raises(DataError, match=r"train-00000\.bin cannot be found.*--again"):
        Dataset.open(dataset.folder)


def test_a_flipped_bit_is_found_by_verify_and_by_preparing(dataset, make_recipe):
    for name in dataset.manifest.files:
        if name == "tokenizer.json":
            continue
        flip(dataset.folder / name, -1)
        with pytest.raises(DataError, match=rf"{name} is not as it was written"):
            Dataset.open(dataset.folder).verify()
        with pytest.raises(DataError, match=name):
            prepare(make_recipe(), workers=1)
        flip(dataset.folder / name, -1)


def test_a_tokenizer_that_did_not_write_the_shards_is_found_when_the_folder_is_opened(dataset):
    flip(dataset.folder / "tokenizer.json", 100)
    with pytest.raises(DataError, match=r"tokenizer\.json is not the tokenizer that wrote the shards"):
        Dataset.open(dataset.folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "damaged"),
        (lambda content: b"", "damaged"),
        (lambda content: b"[1]", "damaged"),
        (lambda content: b"\xff", "damaged"),
        (lambda content: content.replace(b'"end_token": 0', b'"end_token": 1'), "changed after it was written"),
        (lambda content: content.replace(b'"format_version": 1', b'"format_version": 2'), "format 2, this mai reads 1"),
    ],
)
def test_a_damaged_manifest_is_named(dataset, damage, message):
    path = dataset.folder / "dataset.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"dataset\.json.*{message}"):
        Dataset.open(dataset.folder)


def test_a_folder_that_is_not_prepared_says_how_to(tmp_path):
    with pytest.raises(DataError, match=r"data\.folder=.* holds no prepared dataset; run mai prepare first"):
        Dataset.open(tmp_path / "nowhere")


def test_open_shards_keep_their_tokens_while_the_folder_is_prepared_again(dataset, make_recipe, corpus):
    shards = dataset.shards("train")
    before = shards.tokens(0, shards.num_tokens)
    for path in sorted(corpus.iterdir())[:20]:
        path.write_text(f"{path.name} is other text")
    prepare(make_recipe(), workers=1, again=True)
    assert (shards.tokens(0, shards.num_tokens) == before).all()


def test_a_copy_without_its_lock_is_still_prepared(dataset, make_recipe):
    (dataset.folder / ".lock").unlink()
    assert not prepare(make_recipe(), workers=1).is_new


def test_the_manifest_tells_nothing_of_this_machine(dataset, tmp_path):
    content = json.loads((dataset.folder / "dataset.json").read_text())
    del content["settings"]
    assert str(tmp_path) not in json.dumps(content)
    assert os.uname().nodename not in json.dumps(content)
