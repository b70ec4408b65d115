"""Multi-token prediction equals a plain version of it, and gives the one-rank answer in every layout.

fp32: relative difference of every loss and gradient norm over 20 steps at most 1e-5, and of every gradient of the first
step as a whole. The latter is what an embedding whose two gradients are not summed cannot pass.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mai.parallel.place import Place
from mai.recipe import LatentAttention, MixtureOfExperts, ParallelConfig, Recipe
from tests.corpus import changed
from tests.parity.steps import Found, beside_one_rank, cases, one_rank, relative_differences, whole_tensors
from tests.parity.test_experts import load, save_after_two_steps
from tests.parity.trainer import BATCH_SEQUENCES, STEPS, num_ranks, open_trainer
from tests.ranks import on_ranks

TOLERANCE = 1e-5
MICRO_BATCH_SEQUENCES = 4

MODELS: dict[str, dict[str, Any]] = {
    "dense": {"num_layers": 2, "multi_token_depths": 2},
    "deepseek": {
        "num_layers": 2,
        "num_kv_heads": 4,
        "multi_token_depths": 1,
        "attention": LatentAttention(key_value_rank=32, query_rank=48, rotary_head_size=8, value_head_size=24),
        "feed_forward": MixtureOfExperts(
            num_experts=4,
            experts_per_token=2,
            ffn_hidden_size=64,
            shared_ffn_hidden_size=32,
            num_dense_layers=1,
            scores="sigmoid",
            bias_update_rate=1e-3,
        ),
    },
}


def cut(**axes: Any) -> ParallelConfig:
    return ParallelConfig(**{"data": 1, "micro_batch_sequences": MICRO_BATCH_SEQUENCES, **axes})


SPLIT = {"tensor": 2, "sequence": True}
CUTS = {
    "dense": [
        cut(tensor=2),
        cut(data=2, sharding="full", recompute=("layer",)),
        # The last part has nothing but the loss and the further depths.
        cut(pipeline=2, virtual_stages=2, stages="E|t|t|L"),
        cut(pipeline=2, data=2),
        cut(pipeline=2, data=2, sharding="full"),
        cut(**SPLIT, context=2, recompute=("attention_core", "norms")),
    ],
    "deepseek": [cut(**SPLIT, pipeline=2, expert=2)],
}
MORE_CUTS = {
    "dense": [
        cut(**SPLIT),
        cut(pipeline=2),
        cut(data=2),
        cut(context=2),
        cut(data=4, sharding="full", sharding_ranks=2),
        cut(pipeline=2, virtual_stages=2, stages="E|t|t|L", data=2),
    ],
    "deepseek": [cut(data=2, expert=2), cut(**SPLIT, expert=2), cut(context=2, pipeline=2, expert=2)],
}
CASES = cases(CUTS, MORE_CUTS)


def multi_token_recipe(prepared: Recipe, model: str) -> Recipe:
    return changed(
        prepared,
        model=MODELS[model],
        parallel={"data": 1, "micro_batch_sequences": MICRO_BATCH_SEQUENCES},
        train={"batch_tokens": BATCH_SEQUENCES * prepared.data.sequence_length},
    )


@pytest.fixture(scope="module")
def found(prepared: Recipe, pytestconfig: pytest.Config) -> dict[str, Found]:
    recipes = {model: multi_token_recipe(prepared, model) for model in MODELS}
    return beside_one_rank(recipes, CUTS, MORE_CUTS, pytestconfig)


@pytest.mark.parametrize(("model", "layout"), CASES)
def test_layout_gives_the_one_rank_losses_and_gradient_norms(model: str, layout: str, found: dict[str, Found]) -> None:
    ours, theirs = found[model].layouts[layout], found[model].one_rank
    for step, (our, their) in enumerate(zip(ours.curve, theirs.curve, strict=True)):
        assert our == pytest.approx(their, rel=TOLERANCE, abs=0), f"step {step}"
    assert ours.multi_token_losses == pytest.approx(theirs.multi_token_losses, rel=TOLERANCE, abs=0)


@pytest.mark.parametrize(("model", "layout"), CASES)
def test_layout_gives_every_gradient_of_the_first_step(model: str, layout: str, found: dict[str, Found]) -> None:
    differences = relative_differences(found[model].layouts[layout].gradients(), found[model].one_rank.gradients())
    assert not {name: difference for name, difference in differences.items() if not difference <= TOLERANCE}


def test_further_tokens_are_learnt_and_are_harder_than_the_next_one(found: dict[str, Found]) -> None:
    for answers in found.values():
        further = answers.one_rank.multi_token_losses
        assert further[0] is not None
        assert further[-1] is not None
        assert further[-1] < further[0] - 0.2, "a parity of models that do not move proves little"
        assert further[-1] > answers.one_rank.curve[STEPS - 1][0]


def test_the_selection_bias_moves_alike_at_every_depth_to_the_last_bit(found: dict[str, Found]) -> None:
    one_rank_bias = found["deepseek"].one_rank.bias
    assert any(one_rank_bias["mtp.layers.0.transformer_layer.mlp.router.expert_bias"])
    for steps in found["deepseek"].layouts.values():
        assert steps.bias == one_rank_bias


@dataclass(frozen=True)
class Computed:
    """Of one batch."""

    loss: float
    multi_token_loss: float
    gradients: dict[str, Any]


SHARED = ("embedding.word_embeddings.weight", "mtp.layers.0.eh_proj.weight", "output_layer.weight")


def ours_and_plain(place: Place, recipe: Recipe) -> tuple[Computed, Computed]:
    """Runs on one rank: a batch by the engine, and by the formulas."""
    trainer = open_trainer(place, recipe)
    got = trainer.forward_backward(0)
    gradients = {
        shard.block.name: shard.tensors["gradient"].view(shard.block.shape).clone().numpy()
        for shard in trainer.engine.gradients()
        if shard.block.name in SHARED
    }
    ours = Computed(got.loss, got.multi_token_loss, gradients)
    tokens_BS1 = torch.from_numpy(trainer.training.at(range(recipe.batch_sequences)))
    return ours, plain(trainer.engine._virtual_stages[0], tokens_BS1, recipe)


def plain(model: Any, tokens_BS1: Tensor, recipe: Recipe) -> Computed:
    """DeepSeek-V3 (arXiv 2412.19437), equations 21 to 25. Every depth has one position fewer, and no filling."""
    depths, epsilon = recipe.model.multi_token_depths, recipe.model.norm_epsilon
    embedding_VH, output_VH = model.embedding.word_embeddings.weight, model.output_layer.weight
    length, positions = recipe.data.sequence_length, tokens_BS1[:, :-1].numel()

    def normed(x: Tensor, norm: Any) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight, epsilon)

    def summed_loss(hidden_SBH: Tensor, depth: int) -> Tensor:
        logits_BSV, targets_BS = (hidden_SBH @ output_VH.T).transpose(0, 1), tokens_BS1[:, 1 + depth :]
        return F.cross_entropy(logits_BSV.flatten(0, 1), targets_BS.flatten(), reduction="sum")

    hidden_SBH = model.decoder(F.embedding(tokens_BS1[:, :-1].T, embedding_VH), None)
    main, further = summed_loss(hidden_SBH, 0), []
    for depth in range(1, depths + 1):
        block = model.mtp.layers[depth - 1]
        further_SBH = F.embedding(tokens_BS1[:, depth:length].T, embedding_VH)
        joined_SB2H = torch.cat([normed(further_SBH, block.enorm), normed(hidden_SBH[:-1], block.hnorm)], -1)
        hidden_SBH, _ = block.transformer_layer(joined_SB2H @ block.eh_proj.weight.T, None)
        hidden_SBH = normed(hidden_SBH, block.final_layernorm)
        further.append(summed_loss(hidden_SBH, depth))
    total = main / positions + recipe.objective.multi_token_weight * sum(further) / positions / depths
    weights = dict(model.named_parameters())
    gradients = torch.autograd.grad(total, [weights[name] for name in SHARED])
    num_further = len(tokens_BS1) * sum(length - depth for depth in range(1, depths + 1))
    return Computed(
        float(main) / positions,
        float(sum(further)) / num_further,
        {name: gradient.numpy() for name, gradient in zip(SHARED, gradients, strict=True)},
    )


def test_one_rank_equals_a_plain_version(prepared: Recipe) -> None:
    recipe = changed(multi_token_recipe(prepared, "dense"), objective={"multi_token_weight": 0.7})
    ours, expected = on_ranks(1, ours_and_plain, recipe)[0]
    assert ours.loss == pytest.approx(expected.loss, rel=1e-6)
    assert ours.multi_token_loss == pytest.approx(expected.multi_token_loss, rel=1e-6)
    our, their = ({name: torch.from_numpy(x) for name, x in one.gradients.items()} for one in (ours, expected))
    assert max(relative_differences(our, their).values()) <= TOLERANCE


def test_loss_and_held_out_loss_are_those_of_the_model_without_further_tokens(
    prepared: Recipe, found: dict[str, Found]
) -> None:
    """Before the first update moves its weights."""
    recipe = multi_token_recipe(prepared, "dense")
    without = one_rank(changed(recipe, model={"multi_token_depths": 0}), num_steps=1)
    assert without.multi_token_losses == [None]
    assert without.curve[0][0] == found["dense"].one_rank.curve[0][0]
    still = changed(recipe, optimizer={"learning_rate": 1e-30})
    assert (
        one_rank(still, num_steps=1).curve[-1]
        == one_rank(changed(still, model={"multi_token_depths": 0}), num_steps=1).curve[-1]
    )


def names_that_speak(place: Place, recipe: Recipe) -> list[str]:
    """Runs on every rank: what a model that does not train asks a checkpoint for."""
    from mai.engine.device import open_device
    from mai.engine.frozen_model import FrozenModel
    from mai.engine.groups import build_groups, join_world
    from mai.parallel.layout import Layout

    device = open_device("cpu", place)
    join_world(backend="gloo", place=place, timeout_seconds=60)
    layout = Layout.of(recipe.parallel, world_size=place.world_size)
    frozen = FrozenModel(recipe, layout, build_groups(layout, timeout_seconds=60), device, max_length=16)
    return [shard.block.name for shard in frozen.shards]


def test_further_depths_do_not_speak(prepared: Recipe) -> None:
    recipe = replace(multi_token_recipe(prepared, "dense"), parallel=cut(pipeline=2))
    first, last = on_ranks(2, names_that_speak, recipe)
    assert "output_layer.weight" in last
    assert not [name for name in first + last if name.startswith("mtp.")]


def test_another_layout_loads_every_depth_bit_for_bit_and_goes_on(prepared: Recipe, tmp_path: Path) -> None:
    recipe = multi_token_recipe(prepared, "dense")
    answers = on_ranks(4, save_after_two_steps, replace(recipe, parallel=cut(pipeline=2, data=2)), tmp_path)
    saved, third_step = whole_tensors(piece for held, _ in answers for piece in held), answers[0][1]
    parallel = cut(**SPLIT)
    loaded_answers = on_ranks(num_ranks(parallel), load, replace(recipe, parallel=parallel), tmp_path)
    loaded = whole_tensors(piece for held, _ in loaded_answers for piece in held)
    assert "mtp.layers.1.eh_proj.weight.weight" in loaded
    assert loaded.keys() == saved.keys()
    assert [name for name in loaded if not torch.equal(loaded[name], saved[name])] == []
    assert loaded_answers[0][1] == pytest.approx(third_step, rel=TOLERANCE, abs=0)
