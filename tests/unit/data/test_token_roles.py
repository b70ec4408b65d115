"""Which token ends a document, ends a message, begins: what the recipe says, what a tokenizer has, what cannot be."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, processors

from mai.data.prepare import prepare
from mai.data.token_roles import Roles, find_roles, roles_that_are_said
from mai.data.tokenizer import encode, read_tokenizer, train_tokenizer
from mai.errors import DataError
from mai.recipe import Recipe
from mai.recipe.data import TokenRoles
from recipes.debug.tiny import tiny

SPECIAL = ("<|endoftext|>", "<|end|>", "<|start|>", "<pad>")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A byte-level tokenizer with the tokens of chats, as gpt-oss has them: <|end|> ends a message."""
    tokenizer = train_tokenizer(["to be or not to be"] * 4, vocab_size=280)
    tokenizer.add_special_tokens([AddedToken(content, special=True) for content in SPECIAL])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def with_beginning(path: Path) -> Path:
    """The same, which puts <|start|> before a text."""
    tokenizer = Tokenizer.from_file(str(path))
    start = tokenizer.token_to_id("<|start|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", start)]
    )
    tokenizer.save(str(path.parent / "with_beginning.json"))
    return path.parent / "with_beginning.json"


def ids(path: Path, *contents: str) -> list[int]:
    return [Tokenizer.from_file(str(path)).token_to_id(content) for content in contents]


def test_the_end_of_a_message_does_not_end_a_document(path: Path) -> None:
    (end,) = ids(path, "<|endoftext|>")
    assert find_roles(read_tokenizer(path), TokenRoles(), path) == Roles(document_end=end)


def test_a_recipe_says_which_token_plays_which_part(path: Path) -> None:
    wanted = TokenRoles(document_end="<|end|>", message_end="<|start|>", beginning="<pad>", padding="<pad>")
    end, start, pad = ids(path, "<|end|>", "<|start|>", "<pad>")
    found = find_roles(read_tokenizer(path), wanted, path)
    assert found == Roles(document_end=end, message_end=start, beginning=pad, padding=pad)
    assert found.ends == {end, start}


def test_a_tokenizer_that_puts_a_token_first_begins_with_it_unless_the_recipe_says_none_does(path: Path) -> None:
    begins = with_beginning(path)
    (start,) = ids(path, "<|start|>")
    assert find_roles(read_tokenizer(begins), TokenRoles(), begins).beginning == start
    assert find_roles(read_tokenizer(begins), TokenRoles(beginning=""), begins).beginning is None


@pytest.mark.parametrize("role", ["document_end", "message_end", "beginning", "padding"])
def test_a_token_that_is_not_there_is_refused_with_those_that_are(role: str, path: Path) -> None:
    with pytest.raises(
        DataError, match=rf"data.tokens.{role}=<s>: .* has no such token; its special tokens are .*<pad>"
    ):
        find_roles(read_tokenizer(path), TokenRoles(**{role: "<s>"}), path)


def test_a_token_that_any_text_may_spell_is_refused(path: Path) -> None:
    with pytest.raises(DataError, match="be is not marked special"):
        find_roles(read_tokenizer(path), TokenRoles(message_end="be"), path)


def test_what_a_models_configs_say_becomes_a_recipes_words(path: Path) -> None:
    """gpt-oss: <|return|> ends what it says, and its documents end otherwise."""
    end, message, pad = ids(path, "<|endoftext|>", "<|end|>", "<pad>")
    wanted, found, told = roles_that_are_said({"eos_token_id": [message, end], "pad_token_id": [pad]}, path)
    assert wanted == TokenRoles(document_end="<|endoftext|>", message_end="<|end|>", padding="<pad>")
    assert found == Roles(document_end=end, message_end=message, padding=pad)
    assert told == []


def test_an_end_that_any_text_may_spell_ends_nothing_and_is_told(path: Path) -> None:
    end, spelled = ids(path, "<|endoftext|>", "be")
    _, found, told = roles_that_are_said({"eos_token_id": [spelled], "pad_token_id": []}, path)
    assert found == Roles(document_end=end)
    assert told == [f"eos_token_id={spelled} is no special token of tokenizer.json, and plays no part here"]


def test_run_json_of_an_older_mai_knows_the_end_of_a_document() -> None:
    assert Roles.of_run({"end_token": 7}) == Roles(document_end=7)
    said = Roles(document_end=7, beginning=3)
    assert Roles.of_run({"tokens": said.to_json()}) == said


def test_special_tokens_are_text_in_documents_and_tokens_in_a_prompt(path: Path) -> None:
    (end,) = ids(path, "<|end|>")
    assert end not in encode(read_tokenizer(path), "a<|end|>b")
    assert end in encode(read_tokenizer(path, takes_special=True), "a<|end|>b")


def recipe_with(path: Path, folder: Path, **tokens: str) -> Recipe:
    documents = folder / "text"
    documents.mkdir(exist_ok=True)
    for number in range(40):
        (documents / f"{number}.txt").write_text(f"document {number}, to be or not to be")
    recipe = tiny()
    data = replace(
        recipe.data,
        documents=(str(documents),),
        folder=str(folder / f"data{len(list(folder.iterdir()))}"),
        tokenizer=str(path),
        tokens=TokenRoles(**tokens),
        held_out_fraction=0.2,
    )
    return replace(recipe, data=data, model=replace(recipe.model, vocab_size=512))


def test_every_document_stands_between_its_beginning_and_its_end(path: Path, tmp_path: Path) -> None:
    begins = with_beginning(path)
    dataset = prepare(recipe_with(begins, tmp_path), workers=1).dataset
    start, end = ids(path, "<|start|>", "<|endoftext|>")
    assert (dataset.manifest.beginning_token, dataset.manifest.end_token) == (start, end)
    offsets = np.asarray(dataset.document_offsets("train"))
    tokens = dataset.shards("train").tokens(0, int(offsets[-1]))
    assert set(tokens[offsets[:-1]].tolist()) == {start}
    assert set(tokens[offsets[1:] - 1].tolist()) == {end}
    assert int((tokens == start).sum()) == int((tokens == end).sum()) == len(offsets) - 1


def test_another_part_is_another_dataset_and_a_folder_from_before_is_still_itself(path: Path, tmp_path: Path) -> None:
    recipe = recipe_with(path, tmp_path)
    dataset = prepare(recipe, workers=1).dataset
    content = json.loads((dataset.folder / "dataset.json").read_text())
    assert "beginning_token" not in content
    assert content["settings"].keys() == {"documents", "tokenizer", "vocab_size", "held_out_fraction"}
    changed = replace(recipe, data=replace(recipe.data, tokens=TokenRoles(document_end="<|end|>")))
    with pytest.raises(DataError, match=r"data.tokens.document_end: prepared for None, the recipe says '<\|end\|>'"):
        prepare(changed, workers=1)
