"""Batches with weights, segments and positions: what a rank and a layout compute of them is what their words say.

fp32. Packed rows against the same segments in rows of their own: every element of every gradient to 1e-6 of the
tensor's largest. Layouts of 8 and 16 ranks against one rank: loss and norm to 1e-5, every gradient as a whole to 1e-5,
every log-probability to 1e-5 nats. Gradients from outside against autograd: every element to 1e-5 of the tensor's
largest.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mai.errors import DataError
from mai.parallel.layout import Layout
from mai.parallel.place import Place
from mai.recipe import GroupedQueryAttention, LatentAttention, MixtureOfExperts, ParallelConfig, Recipe
from recipes.debug.every_axis import dense_every_axis, experts_every_axis, latent_every_axis
from recipes.debug.tiny import tiny
from tests.corpus import changed
from tests.parity.annotated import (
    DRAW,
    Computed,
    layout_of_batch,
    packed_and_unpacked,
    preference_autograd,
    preference_gradients,
)
from tests.parity.steps import relative_differences, whole_tensors
from tests.parity.trainer import num_ranks, open_trainer
from tests.ranks import on_ranks

SEQUENCES = 4
EXPERTS: dict[str, Any] = {"num_experts": 4, "experts_per_token": 2, "ffn_hidden_size": 64}
PACKED: dict[str, dict[str, Any]] = {
    "dense": {},
    "window, sinks and norms of heads": {
        "window": 7,
        "attention": GroupedQueryAttention(qk_norm=True, sinks=True),
    },
    "latent": {
        "num_kv_heads": 4,
        "attention": LatentAttention(key_value_rank=32, query_rank=48, rotary_head_size=8, value_head_size=24),
    },
    "further tokens": {"multi_token_depths": 2},
    # The balancing loss of a row is that of other tokens, packed or not: see docs/decisions/0017.
    "experts": {
        "feed_forward": MixtureOfExperts(
            **EXPERTS, scores="sigmoid", bias_update_rate=1e-3, auxiliary_loss="micro_batch", auxiliary_loss_weight=0.1
        )
    },
    "experts and further tokens": {
        "feed_forward": MixtureOfExperts(**EXPERTS, auxiliary_loss="micro_batch"),
        "multi_token_depths": 1,
    },
}


def one_rank_recipe(model: dict[str, Any], **parallel: Any) -> Recipe:
    recipe = changed(tiny(), model={"num_layers": 2, **model}, train={"batch_tokens": SEQUENCES * 64})
    return replace(recipe, parallel=ParallelConfig(**{"data": 1, "micro_batch_sequences": SEQUENCES, **parallel}))


@pytest.fixture(scope="module")
def packed() -> dict[str, tuple[Computed, Computed]]:
    recipes = [one_rank_recipe(model) for model in PACKED.values()]
    return dict(zip(PACKED, on_ranks(1, packed_and_unpacked, recipes)[0], strict=True))


def largest_differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Of each tensor, relative to its largest element."""
    assert ours.keys() == theirs.keys()
    return {name: float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs}


@pytest.mark.parametrize("model", PACKED)
def test_packed_documents_give_the_gradients_of_rows_of_their_own(
    model: str, packed: dict[str, tuple[Computed, Computed]]
) -> None:
    ours, theirs = packed[model]
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    assert ours.multi_token_loss == pytest.approx(theirs.multi_token_loss, rel=1e-6)
    differences = largest_differences(whole_tensors(ours.gradients), whole_tensors(theirs.gradients))
    assert not {name: difference for name, difference in differences.items() if not difference <= 1e-6}


def test_what_fills_a_row_up_is_not_counted_among_the_tokens_of_an_expert(
    packed: dict[str, tuple[Computed, Computed]],
) -> None:
    """Of two layers: the rows of their own hold more tokens, and the same ones count."""
    ours, theirs = packed["experts"]
    assert len(ours.counts) == 2
    assert all((our == their).all() and our.sum() > 0 for our, their in zip(ours.counts, theirs.counts, strict=True))


def in_layout(recipe: Recipe, **parallel: Any) -> Recipe:
    return changed(
        recipe, train={"batch_tokens": 16 * 64}, parallel={"micro_batch_sequences": 2, "data": 2, **parallel}
    )


WHOLE_STAGES: dict[str, Any] = {"virtual_stages": 1, "stages": "even"}
ONE_STAGE: dict[str, Any] = {"pipeline": 1, **WHOLE_STAGES}
FURTHER = changed(dense_every_axis(), model={"multi_token_depths": 1})
SIXTEEN = {
    "dense": in_layout(dense_every_axis()),
    "experts": in_layout(experts_every_axis()),
    "latent": in_layout(latent_every_axis()),
    "further tokens": in_layout(FURTHER, **WHOLE_STAGES, recompute=("layer",)),
    "full sharding": in_layout(dense_every_axis(), **WHOLE_STAGES, recompute=("layer",), sharding="full"),
}
EIGHT = {
    "dense": in_layout(dense_every_axis(), data=1, sharding_ranks=None),
    "experts": in_layout(experts_every_axis(), context=1),
    "latent": in_layout(latent_every_axis(), **ONE_STAGE),
    "further tokens": in_layout(FURTHER, **WHOLE_STAGES, data=1, sharding_ranks=None, recompute=("layer",)),
    "full sharding": in_layout(dense_every_axis(), **ONE_STAGE, recompute=("layer",), sharding="full"),
}
"""In CI; what weights and segments give on sixteen ranks is in the certificates of tests/parity/test_certify.py too."""
LAYOUTS = {8: EIGHT, 16: SIXTEEN}
EACH_LAYOUT = pytest.mark.parametrize(
    ("ranks", "layout"),
    [
        pytest.param(ranks, layout, marks=() if ranks == 8 else pytest.mark.full)
        for ranks, layouts in LAYOUTS.items()
        for layout in layouts
    ],
)


@cache
def computed(ranks: int) -> dict[str, tuple[list[Computed], Computed]]:
    """What each layout's ranks say, and what one rank says."""
    recipes = LAYOUTS[ranks]
    assert {num_ranks(recipe.parallel) for recipe in recipes.values()} == {ranks}
    alone = ParallelConfig(data=1, micro_batch_sequences=2)
    one_rank = on_ranks(1, layout_of_batch, [replace(recipe, parallel=alone) for recipe in recipes.values()], None)[0]
    routing = [one.routing for one in one_rank]
    answers = on_ranks(ranks, layout_of_batch, list(recipes.values()), routing, timeout_seconds=1800)
    return {name: ([rank[at] for rank in answers], one_rank[at]) for at, name in enumerate(recipes)}


@pytest.mark.timeout(1800)
@EACH_LAYOUT
def test_many_ranks_give_the_one_rank_loss_and_every_gradient(ranks: int, layout: str) -> None:
    by_rank, one_rank = computed(ranks)[layout]
    for rank in by_rank:
        assert (rank.loss, rank.norm) == pytest.approx((one_rank.loss, one_rank.norm), rel=1e-5, abs=0)
        assert rank.multi_token_loss == pytest.approx(one_rank.multi_token_loss, rel=1e-5, abs=0)
    ours = whole_tensors(piece for rank in by_rank for piece in rank.gradients)
    differences = relative_differences(ours, whole_tensors(one_rank.gradients))
    assert not {name: difference for name, difference in differences.items() if not difference <= 1e-5}


@pytest.mark.timeout(1800)
@EACH_LAYOUT
def test_many_ranks_say_the_one_rank_log_probabilities_with_an_optimizer_and_without(ranks: int, layout: str) -> None:
    by_rank, one_rank = computed(ranks)[layout]
    of_layout = Layout.of(LAYOUTS[ranks][layout].parallel, ranks)
    assert (one_rank.log_probs < 0).all()
    each = len(one_rank.log_probs) // of_layout.data
    for copy in range(of_layout.data):
        theirs = one_rank.log_probs[copy * each : (copy + 1) * each]
        same = [rank for number, rank in enumerate(by_rank) if of_layout.coordinates(number).data == copy]
        for rank in same:
            assert (rank.log_probs == same[0].log_probs).all(), "the same on all model ranks of a copy"
            assert abs(rank.log_probs - theirs).max() < 1e-5
            assert abs(rank.frozen_log_probs - theirs).max() < 1e-5


@pytest.mark.parametrize(
    "parallel",
    [ParallelConfig(data=2), ParallelConfig(tensor=2, context=2, data=2, micro_batch_sequences=2)],
    ids=["two data ranks", "eight ranks"],
)
def test_a_gradient_from_outside_gives_what_autograd_gives(parallel: ParallelConfig) -> None:
    """DPO: chosen and rejected of a pair lie in different micro-batches, on different data-parallel ranks."""
    recipe = changed(tiny(), model={"num_layers": 2}, train={"batch_tokens": 8 * 64})
    expected = {name: torch.from_numpy(x) for name, x in on_ranks(1, preference_autograd, recipe)[0].items()}
    answers = on_ranks(num_ranks(parallel), preference_gradients, replace(recipe, parallel=parallel))
    found = whole_tensors(piece for rank in answers for piece in rank)
    differences = largest_differences(found, {f"{name}.gradient": x for name, x in expected.items()})
    assert max(differences.values()) <= 1e-5


def rows_of_logits(place: Place, recipes: dict[str, Recipe]) -> dict[str, int]:
    """Runs on one rank: the most rows of logits that there ever are while log-probabilities are said."""
    from tests.parity.annotated import frozen_model
    from tests.parity.test_output_layer import LargestLogits

    found = {}
    for name, recipe in recipes.items():
        trainer = open_trainer(place, recipe, is_synthetic=True)
        batch = trainer.batch(0, recipe.batch_sequences)
        with LargestLogits(recipe.model.vocab_size) as logits:
            trainer.engine.log_probs(batch)
            frozen_model(trainer).log_probs(batch)
        found[name] = logits.rows
        trainer.close()
    return found


def test_logits_are_never_whole_whatever_the_loss_and_the_sharding(tmp_path: Path) -> None:
    """8,192 tokens of a micro-batch, in chunks of 4,096."""
    loss = tmp_path / "loss.py"
    loss.write_text("def loss(token_losses_BS, batch):\n    return token_losses_BS.sum()\n")
    plain = changed(
        tiny(), model={"num_layers": 1, "vocab_size": 320}, data={"sequence_length": 2048}, train={"batch_tokens": 8192}
    )
    plain = replace(plain, parallel=ParallelConfig(data=1, micro_batch_sequences=4))
    recipes = {
        "plain": plain,
        "own loss": changed(plain, objective={"loss": f"{loss}:loss"}),
        "full sharding": changed(plain, parallel={"sharding": "full"}),
    }
    assert on_ranks(1, rows_of_logits, recipes)[0] == dict.fromkeys(recipes, 4096)


OWN_LAYER = """
def layer(model, number, standard):
    from megatron.core.transformer.identity_op import IdentityOp
    standard.submodules.self_attention = IdentityOp
    return standard
"""
OWN_CORE = """
from mai.kernels import attention

def core(query, key, value):
    return attention.reference(query, key, value)
"""
REFUSED = {
    "model.attention_core": (OWN_CORE, "core", "takes no starts_BQ"),
    "model.layer": (OWN_LAYER, "layer", "has no attention core of mai's"),
}


def say_no(place: Place, recipes: dict[str, Recipe]) -> dict[str, str]:
    """Runs on one rank: what is said of a packed batch."""
    from mai.certify.annotated import annotated
    from mai.errors import RecipeError

    found = {}
    for name, recipe in recipes.items():
        trainer = open_trainer(place, recipe, is_synthetic=True)
        number = recipe.batch_sequences
        packed = annotated(trainer.batch(0, number), range(number), draw=DRAW, has_segments=True)
        assert not trainer.engine.takes(packed)
        try:
            trainer.engine.log_probs(packed)
        except RecipeError as error:
            found[name] = str(error)
        trainer.close()
    return found


def test_a_part_of_ones_own_that_cannot_take_segments_is_refused_by_name(tmp_path: Path) -> None:
    recipes = {}
    for field, (source, function, _) in REFUSED.items():
        file = tmp_path / f"{function}.py"
        file.write_text(source)
        recipes[field] = changed(
            one_rank_recipe({}), model={function.replace("core", "attention_core"): f"{file}:{function}"}
        )
    for field, said in on_ranks(1, say_no, recipes)[0].items():
        assert said.startswith(f"{field}={tmp_path}"), said
        assert REFUSED[field][2] in said
        assert "docs/guides/your_own_part.md" in said


def positions_beyond(place: Place, recipe: Recipe) -> str:
    """Runs on one rank: what is said of a position that the model does not know."""
    trainer = open_trainer(place, recipe, is_synthetic=True)
    batch = trainer.batch(0, recipe.batch_sequences)
    try:
        trainer.engine.log_probs(replace(batch, positions_BS=torch.full_like(batch.tokens_BS, 64)))
    except DataError as error:
        return str(error)
    return ""


def test_a_position_beyond_the_longest_sequence_is_refused() -> None:
    assert on_ranks(1, positions_beyond, one_rank_recipe({}))[0] == (
        "Batch.positions_BS: 64 to 64; the model knows 0 to 63"
    )


def of_few(place: Place, recipe: Recipe) -> dict[str, Any]:
    """Runs on two data-parallel ranks: batches in which little counts, or nothing."""
    from mai.engine.engine import summed

    trainer = open_trainer(place, recipe, is_synthetic=True)
    number = recipe.batch_sequences
    batch = trainer.batch(0, number)
    only_one = torch.zeros(batch.tokens_BS.shape)
    if trainer.engine.groups.data_rank == 1:
        only_one[0, 3] = 1
    one = trainer.engine.forward_backward(replace(batch, weights_BS=only_one), summed)
    log_probs = trainer.engine.log_probs(batch)
    try:
        trainer.engine.forward_backward(replace(batch, weights_BS=torch.zeros_like(only_one)), summed)
    except DataError as error:
        said = str(error)
    return {"loss": one.loss, "norm": one.norm, "its loss": -float(log_probs[0, 3]), "nothing": said}


def test_one_target_of_a_whole_step_counts_alone_and_none_at_all_is_refused() -> None:
    recipe = changed(tiny(), model={"num_layers": 2}, train={"batch_tokens": 8 * 64})
    first, second = on_ranks(2, of_few, replace(recipe, parallel=ParallelConfig(data=2, micro_batch_sequences=2)))
    assert first["loss"] == second["loss"] == pytest.approx(second["its loss"], rel=1e-6)
    assert first["norm"] == second["norm"] > 0
    assert (
        first["nothing"] == second["nothing"] == "no target of this batch counts: all its weights are 0, on all ranks"
    )
