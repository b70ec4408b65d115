"""Latent attention equals a plain version of it, gives the one-rank answer in every layout, and speaks through a cache.

fp32: relative difference of every loss and gradient norm over 20 steps at most 1e-5, and of every gradient of the first
step as a whole. The latter is what a gradient that is not summed over the tensor ranks cannot pass.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from mai.parallel.place import Place
from mai.recipe import LatentAttention, MixtureOfExperts, ParallelConfig, Recipe
from tests.corpus import changed
from tests.parity.steps import Found, beside_one_rank, cases, relative_differences
from tests.parity.trainer import BATCH_SEQUENCES, STEPS, open_trainer
from tests.ranks import on_ranks

TOLERANCE = 1e-5
MICRO_BATCH_SEQUENCES = 4
SIZES = {"key_value_rank": 32, "rotary_head_size": 8, "value_head_size": 24}
EXPERTS = MixtureOfExperts(
    num_experts=4,
    experts_per_token=2,
    ffn_hidden_size=64,
    shared_ffn_hidden_size=32,
    scores="sigmoid",
    bias_update_rate=1e-3,
)
MODELS: dict[str, dict[str, Any]] = {
    "queries_from_a_latent_vector": {"attention": LatentAttention(**SIZES, query_rank=48)},
    "queries_from_the_hidden_state": {"attention": LatentAttention(**SIZES)},
    "with_experts": {"attention": LatentAttention(**SIZES, query_rank=48), "feed_forward": EXPERTS},
}


def cut(**axes: Any) -> ParallelConfig:
    return ParallelConfig(**{"data": 1, "micro_batch_sequences": MICRO_BATCH_SEQUENCES, **axes})


SPLIT = {"tensor": 2, "sequence": True}
CUTS = {
    "queries_from_a_latent_vector": [cut(tensor=2), cut(**SPLIT, context=2, recompute=("attention_core", "norms"))],
    "queries_from_the_hidden_state": [],
    "with_experts": [cut(**SPLIT, pipeline=2, expert=2)],
}
MORE_CUTS = {
    "queries_from_a_latent_vector": [cut(**SPLIT)],
    "queries_from_the_hidden_state": [cut(tensor=2), cut(**SPLIT)],
    "with_experts": [cut(**SPLIT, context=2, expert=4)],
}
CASES = cases(CUTS, MORE_CUTS)


def latent_recipe(prepared: Recipe, model: str) -> Recipe:
    return changed(
        prepared,
        model={"num_layers": 2, "num_kv_heads": 4, **MODELS[model]},
        parallel={"data": 1, "micro_batch_sequences": MICRO_BATCH_SEQUENCES},
        train={"batch_tokens": BATCH_SEQUENCES * prepared.data.sequence_length},
    )


@pytest.fixture(scope="module")
def found(prepared: Recipe, pytestconfig: pytest.Config) -> dict[str, Found]:
    recipes = {model: latent_recipe(prepared, model) for model in MODELS}
    return beside_one_rank(recipes, CUTS, MORE_CUTS, pytestconfig)


@pytest.mark.parametrize(("model", "layout"), CASES)
def test_layout_gives_the_one_rank_losses_and_gradient_norms(model: str, layout: str, found: dict[str, Found]) -> None:
    pairs = zip(found[model].layouts[layout].curve, found[model].one_rank.curve, strict=True)
    for step, (ours, theirs) in enumerate(pairs):
        assert ours == pytest.approx(theirs, rel=TOLERANCE, abs=0), f"step {step}"


@pytest.mark.parametrize(("model", "layout"), CASES)
def test_layout_gives_every_gradient_of_the_first_step(model: str, layout: str, found: dict[str, Found]) -> None:
    differences = relative_differences(found[model].layouts[layout].gradients(), found[model].one_rank.gradients())
    assert not {name: difference for name, difference in differences.items() if not difference <= TOLERANCE}


def test_the_models_learn_in_these_steps(found: dict[str, Found]) -> None:
    for answers in found.values():
        curve = answers.one_rank.curve
        assert curve[STEPS - 1][0] < curve[0][0] - 0.2, "a parity of models that do not move proves little"


def ours_and_plain(place: Place, recipe: Recipe) -> Any:
    """Runs on one rank: the first layer's attention of random hidden states, by the engine and by the formulas."""
    attention = open_trainer(place, recipe).engine._virtual_stages[0].decoder.layers[0].self_attention
    hidden_SBH = torch.randn(12, 3, recipe.model.hidden_size, generator=torch.Generator().manual_seed(0))
    weights = {name.removesuffix(".weight"): weight for name, weight in attention.named_parameters()}
    with torch.no_grad():
        ours_SBH, _ = attention(hidden_SBH, None)
        return ours_SBH.numpy(), plain_attention(weights, hidden_SBH, recipe).numpy()


def plain_attention(weights: dict[str, Tensor], hidden_SBH: Tensor, recipe: Recipe) -> Tensor:
    """DeepSeek-V2 (arXiv 2405.04434), equations 37 to 47, head by head."""
    from mai.kernels import rms_norm, rope

    model, latent = recipe.model, recipe.model.latent_attention
    assert latent is not None
    frequencies = [
        model.rotary_base ** -(pair / latent.rotary_head_size) for pair in range(0, latent.rotary_head_size, 2)
    ]
    cos, sin = rope.tables(hidden_SBH.size(0), frequencies)

    def normed(x: Tensor, name: str) -> Tensor:
        return rms_norm.reference(x, weights[name], epsilon=model.norm_epsilon)

    queries = normed(hidden_SBH @ weights["linear_q_down_proj"].T, "q_layernorm") @ weights["linear_q_up_proj"].T
    down = hidden_SBH @ weights["linear_kv_down_proj"].T
    keys_and_values = normed(down[..., : latent.key_value_rank], "kv_layernorm") @ weights["linear_kv_up_proj"].T
    rotary_key = rope.reference(down[..., None, latent.key_value_rank :], cos, sin)[:, :, 0]
    heads = []
    for query, key_and_value in zip(
        queries.chunk(model.num_heads, -1), keys_and_values.chunk(model.num_heads, -1), strict=True
    ):
        rotary_query = rope.reference(query[..., None, model.head_size :], cos, sin)[:, :, 0]
        whole_query = torch.cat([query[..., : model.head_size], rotary_query], -1)
        whole_key = torch.cat([key_and_value[..., : model.head_size], rotary_key], -1)
        scores_BQK = torch.einsum("qbd,kbd->bqk", whole_query, whole_key)
        scores_BQK = scores_BQK / (model.head_size + latent.rotary_head_size) ** 0.5
        future = torch.ones(scores_BQK.shape[1:], dtype=torch.bool).triu(1)
        shares_BQK = scores_BQK.masked_fill(future, -torch.inf).softmax(-1)
        heads.append(torch.einsum("bqk,kbd->qbd", shares_BQK, key_and_value[..., model.head_size :]))
    return torch.cat(heads, -1) @ weights["linear_proj"].T


def test_one_rank_equals_a_plain_version(prepared: Recipe) -> None:
    ours, plain = on_ranks(1, ours_and_plain, latent_recipe(prepared, "queries_from_a_latent_vector"))[0]
    torch.testing.assert_close(torch.from_numpy(ours), torch.from_numpy(plain), rtol=1e-5, atol=1e-6)


PROMPT = [[256, 10, 20, 30, 40, 50], [100, 101, 102, 103, 104, 105]]


def logits_with_and_without_cache(place: Place, recipe: Recipe) -> Any:
    """Runs on every rank: the logits of every position, prompt first and then token by token, and all at once."""
    from mai.engine import generate
    from mai.engine.device import open_device
    from mai.engine.frozen_model import FrozenModel
    from mai.engine.groups import build_groups, join_world
    from mai.parallel.layout import Layout

    device = open_device("cpu", place)
    join_world(backend="gloo", place=place, timeout_seconds=60)
    layout = Layout.of(recipe.parallel, world_size=place.world_size)
    groups = build_groups(layout, timeout_seconds=60)
    frozen = FrozenModel(recipe, layout, groups, device, max_length=16)
    tokens_BS = torch.tensor([[*prompt, 7, 8, 9, 10] for prompt in PROMPT])
    with torch.no_grad():
        with generate._decoding(frozen._virtual_stages[0]):
            parts = [generate._through_stages(frozen._virtual_stages[0], groups, tokens_BS[:, :6])]
            for position in range(6, tokens_BS.size(1)):
                inputs_BS = tokens_BS[:, position : position + 1]
                parts.append(generate._through_stages(frozen._virtual_stages[0], groups, inputs_BS))
        at_once = frozen._virtual_stages[0](tokens_BS, None, None, runtime_gather_output=True)
    return torch.cat(parts, dim=1).numpy(), at_once.numpy()


@pytest.mark.parametrize("tensor", [1, 2])
def test_the_cache_gives_the_logits_of_computing_the_whole_text_again(tensor: int, prepared: Recipe) -> None:
    """With experts too; on two tensor ranks without a cut sequence, which experts allow when nothing is trained."""
    recipe = changed(latent_recipe(prepared, "with_experts"), parallel={"tensor": tensor, "expert": tensor})
    answers = [
        torch.from_numpy(each) for rank in on_ranks(tensor, logits_with_and_without_cache, recipe) for each in rank
    ]
    one_rank_logits = torch.from_numpy(
        on_ranks(1, logits_with_and_without_cache, latent_recipe(prepared, "with_experts"))[0][1]
    )
    for logits in answers:
        torch.testing.assert_close(logits, one_rank_logits, rtol=1e-4, atol=1e-5)
