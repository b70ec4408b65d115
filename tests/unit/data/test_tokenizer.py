"""Byte-level tokenizers: trained the same every time, lossless, and checked when they come from elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mai.data.token_roles import Roles, find_roles
from mai.data.token_text import TokenText
from mai.data.tokenizer import (
    check_trainable,
    encode,
    load_tokenizer,
    num_ids,
    read_tokenizer,
    token_texts,
    train_tokenizer,
)
from mai.errors import DataError, RecipeError
from mai.recipe.data import TokenRoles

TEXTS = ["def add(a, b):\n    return a + b\n" * 3, "caf\u00e9 \u4f60\u597d \U0001f600 12345\r\n\t  x  \x01 "]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    train_tokenizer(TEXTS, vocab_size=280).save(str(path))
    return path


def edited(path: Path, **fields: object) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return path


def test_training_twice_gives_the_same_tokenizer():
    first, second = (train_tokenizer(TEXTS, vocab_size=300).to_str() for _ in range(2))
    assert first == second


def test_the_end_of_a_document_is_id_0_and_the_vocabulary_is_as_asked(trained):
    tokenizer = read_tokenizer(trained)
    assert find_roles(tokenizer, TokenRoles(), trained) == Roles(document_end=0)
    assert num_ids(tokenizer) == 280


def test_any_text_comes_back_byte_for_byte_from_the_tokens(trained):
    tokenizer = read_tokenizer(trained)
    text = TokenText.of(token_texts(tokenizer, trained), end_token=0)
    for content in (*TEXTS, "never seen: \u0416\u0628\x7f", "<|end|>"):
        tokens = np.array(encode(tokenizer, content))
        assert text.decode(tokens).tobytes() == content.encode()
        assert text.num_bytes(tokens) == len(content.encode())


def test_weighted_tokens_count_their_bytes_as_often_as_their_weights_say():
    text = TokenText.of([b".", b"two", b"\xc3\xa9"], end_token=0)
    tokens = np.array([1, 2, 0, 1])
    assert text.weighted_bytes(tokens, np.array([1.0, 0.5, 1.0, 0.0])) == 3 + 1
    assert text.weighted_bytes(tokens, np.ones(4)) == text.num_bytes(tokens) == 8


def test_text_that_spells_the_end_token_does_not_end_a_document(trained):
    assert 0 not in encode(read_tokenizer(trained), "a<|end|>b")


def test_what_a_tokenizer_file_adds_pads_or_cuts_is_not_done(trained):
    tokenizer = Tokenizer.from_file(str(trained))
    tokenizer.enable_truncation(max_length=2)
    tokenizer.enable_padding(length=1000)
    tokenizer.save(str(trained))
    assert 2 < len(encode(read_tokenizer(trained), TEXTS[0])) < 1000


def test_a_vocabulary_too_small_for_bytes_is_a_recipe_error():
    with pytest.raises(RecipeError, match=r"model\.vocab_size=256 is too small.*257"):
        check_trainable(256)


def test_a_tokenizer_larger_than_the_model_names_the_size_that_fits(trained):
    with pytest.raises(
        DataError, match=r"has 280 tokens, more than model\.vocab_size=279; set model\.vocab_size to 280"
    ):
        load_tokenizer(trained, vocab_size=279)


def test_a_missing_tokenizer_names_the_nearest_file(trained):
    with pytest.raises(DataError, match=r"no such file.*did you mean .*tokenizer\.json\?"):
        read_tokenizer(trained.with_name("tokeniser.json"))
    with pytest.raises(DataError, match=r"is a folder; name the file"):
        read_tokenizer(trained.parent)
    with pytest.raises(DataError, match="leave it out to train one"):
        read_tokenizer(Path("Qwen/Qwen3-8B"))


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json is not a Hugging Face tokenizer\.json"):
        read_tokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_without_end_token_lists_what_was_looked_for_and_what_it_has(trained):
    added = json.loads(trained.read_text())["added_tokens"]
    added[0]["content"] = "<|begin|>"
    model = json.loads(trained.read_text())["model"]
    model["vocab"]["<|begin|>"] = model["vocab"].pop("<|end|>")
    path = edited(trained, added_tokens=added, model=model)
    with pytest.raises(DataError, match=r"none of <\|endoftext\|>.*<\|end\|>; its special tokens are <\|begin\|>"):
        find_roles(read_tokenizer(path), TokenRoles(), path)


def test_an_end_token_that_text_can_spell_is_refused(trained):
    added = json.loads(trained.read_text())["added_tokens"]
    added[0]["special"] = False
    path = edited(trained, added_tokens=added)
    with pytest.raises(DataError, match=r"<\|end\|> is not marked special"):
        find_roles(read_tokenizer(path), TokenRoles(), path)


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"\u2581the": 0, "</s>": 1}, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(DataError, match="not byte-level"):
        token_texts(tokenizer, tmp_path)
