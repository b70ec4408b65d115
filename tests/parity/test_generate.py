"""A key-value cache and a layout change how text is computed, not which text. The model is the `trained` run's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mai.parallel.place import Place
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from tests.corpus import changed
from tests.jobs import Job
from tests.ranks import on_ranks

NEW_TOKENS = 40
PROMPTS = [[256, 10, 20, 30, 40, 50], [100, 101, 102, 103, 104, 105]]


def open_frozen(place: Place, recipe: Recipe, checkpoints: Path) -> Any:
    from mai.checkpoint.resume import resume
    from mai.engine.device import open_device
    from mai.engine.frozen_model import FrozenModel
    from mai.engine.groups import build_groups, join_world
    from mai.parallel.layout import Layout

    device = open_device("cpu", place)
    join_world(backend="gloo", place=place, timeout_seconds=60)
    layout = Layout.of(recipe.parallel, world_size=place.world_size)
    groups = build_groups(layout, timeout_seconds=60)
    frozen = FrozenModel(recipe, layout, groups, device, max_length=len(PROMPTS[0]) + NEW_TOKENS)
    assert resume(checkpoints, frozen.shards, check=lambda _: None, leave_out=lambda *_: None, timeout_seconds=60)
    frozen.finish_load()
    return frozen


def _all_of(end_token: int | None) -> set[int]:
    return set() if end_token is None else {end_token}


def greedy(
    place: Place, recipe: Recipe, checkpoints: Path, prompts: list[list[int]], end_token: int | None
) -> list[list[int]]:
    """Runs on every rank: the likeliest continuation of each prompt."""
    from mai.engine.generate import Sampling

    frozen = open_frozen(place, recipe, checkpoints)
    new = frozen.generate(
        torch.tensor(prompts), num_tokens=NEW_TOKENS, sampling=Sampling(temperature=0.0), end_tokens=_all_of(end_token)
    )
    return new.tolist()  # type: ignore[no-any-return]


def logits_with_and_without_cache(place: Place, recipe: Recipe, checkpoints: Path, tokens: list[list[int]]) -> Any:
    """Runs on one rank: the logits of every position, token by token with the cache, and all at once without."""
    from mai.engine import generate

    frozen = open_frozen(place, recipe, checkpoints)
    tokens_BS = torch.tensor(tokens)
    prompt = len(PROMPTS[0])
    with torch.no_grad():
        with generate._decoding(frozen._virtual_stages[0]):
            parts = [generate._through_stages(frozen._virtual_stages[0], frozen._groups, tokens_BS[:, :prompt])]
            for position in range(prompt, tokens_BS.size(1)):
                inputs_BS = tokens_BS[:, position : position + 1]
                parts.append(generate._through_stages(frozen._virtual_stages[0], frozen._groups, inputs_BS))
        at_once = frozen._virtual_stages[0](tokens_BS, None, None, runtime_gather_output=True)
    return torch.cat(parts, dim=1).numpy(), at_once.numpy()


@pytest.fixture(scope="module")
def one_rank_tokens(prepared: Recipe, trained: RunFolder) -> list[list[int]]:
    return on_ranks(1, greedy, prepared, trained.checkpoints, PROMPTS, None)[0]


def test_the_cache_gives_the_logits_of_computing_the_whole_text_again(
    prepared: Recipe, trained: RunFolder, one_rank_tokens: list[list[int]]
) -> None:
    texts = [[*prompt, *new] for prompt, new in zip(PROMPTS, one_rank_tokens, strict=True)]
    cached, recomputed = on_ranks(1, logits_with_and_without_cache, prepared, trained.checkpoints, texts)[0]
    torch.testing.assert_close(torch.from_numpy(cached), torch.from_numpy(recomputed), rtol=1e-5, atol=1e-5)
    likeliest = recomputed[:, len(PROMPTS[0]) - 1 : -1].argmax(-1)
    assert likeliest.tolist() == one_rank_tokens


def test_tensor_and_pipeline_ranks_say_what_one_rank_says(
    prepared: Recipe, trained: RunFolder, one_rank_tokens: list[list[int]]
) -> None:
    recipe = changed(prepared, parallel={"tensor": 2, "pipeline": 2})
    answers = on_ranks(4, greedy, recipe, trained.checkpoints, PROMPTS, None)
    assert answers == [one_rank_tokens] * 4


def test_generation_ends_when_every_sequence_has_said_the_end_token(
    prepared: Recipe, trained: RunFolder, one_rank_tokens: list[list[int]]
) -> None:
    end_token = one_rank_tokens[0][2]
    first = one_rank_tokens[0].index(end_token)
    alone = on_ranks(1, greedy, prepared, trained.checkpoints, PROMPTS[:1], end_token)[0]
    assert alone == [one_rank_tokens[0][: first + 1]]


def drawn_without_and_with_an_end(place: Place, recipe: Recipe, checkpoints: Path) -> tuple[Any, Any, int]:
    """Runs on one rank: the same draw twice, without an end token, and with one that both say and not at once."""
    from mai.engine.generate import Sampling

    frozen = open_frozen(place, recipe, checkpoints)

    def draw(end_token: int | None) -> list[list[int]]:
        sampling = Sampling(temperature=1.0, seed=3)
        new = frozen.generate(
            torch.tensor(PROMPTS), num_tokens=NEW_TOKENS, sampling=sampling, end_tokens=_all_of(end_token)
        )
        return new.tolist()  # type: ignore[no-any-return]

    whole = draw(None)
    said_by_both = set(whole[0][: NEW_TOKENS // 2]) & set(whole[1][: NEW_TOKENS // 2])
    end_token = next(token for token in sorted(said_by_both) if whole[0].index(token) != whole[1].index(token))
    return whole, draw(end_token), end_token


def test_a_sequence_that_has_ended_changes_nothing_for_the_others_and_the_last_to_end_ends_the_batch(
    prepared: Recipe, trained: RunFolder
) -> None:
    """What comes after a sequence's own end token is what the model would have said without one."""
    whole, ended, end_token = on_ranks(1, drawn_without_and_with_an_end, prepared, trained.checkpoints)[0]
    assert [len(said) for said in whole] == [NEW_TOKENS] * 2
    first, last = sorted(said.index(end_token) for said in whole)
    assert first < last < NEW_TOKENS - 1
    assert ended == [said[: last + 1] for said in whole]


@pytest.fixture
def say(trained: RunFolder, launch: Callable[..., Job]) -> Callable[..., dict[str, Any]]:
    """`mai generate RUN --json`, as a dict."""

    def run(*flags: str, prompt: str = "def ") -> dict[str, Any]:
        command = ["generate", str(trained.path), "--json", "--device", "cpu", "--prompt", prompt, *flags]
        job = launch(command, folder=trained.path)
        assert job.exit_code() == 0, job.stderr
        return json.loads(job.stdout)  # type: ignore[no-any-return]

    return run


def test_the_command_says_the_same_on_one_rank_and_on_the_trained_layout(say: Callable[..., dict[str, Any]]) -> None:
    alone = say("--temperature", "0", "--tokens", "24")
    assert alone == say("--temperature", "0", "--tokens", "24", "--layout", "trained")
    assert (alone["prompt"], alone["step"], alone["num_tokens"]) == ("def ", 20, 24)
    assert alone["text"]


def test_the_same_seed_gives_the_same_text_and_another_seed_another(say: Callable[..., dict[str, Any]]) -> None:
    first, again, other = (say("--temperature", "1", "--tokens", "24", "--seed", seed)["text"] for seed in "334")
    assert first == again != other


def test_a_prompt_may_be_longer_than_the_trained_length(prepared: Recipe, say: Callable[..., dict[str, Any]]) -> None:
    prompt = "def function(argument):\n    return argument\n\n" * 20
    assert len(prompt.split()) > prepared.data.sequence_length
    assert say("--temperature", "0", "--tokens", "4", prompt=prompt)["num_tokens"] <= 4


def test_an_empty_prompt_begins_a_document_and_top_p_0_takes_the_likeliest(say: Callable[..., dict[str, Any]]) -> None:
    flags = ("--tokens", "8", "--temperature")
    assert say(*flags, "1", "--top-p", "0", prompt="")["text"] == say(*flags, "0", prompt="")["text"]
