"""Output layer and cross entropy in chunks, inside the trainer: the numbers of whole logits, which are never there."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mai.kernels import linear_cross_entropy
from mai.parallel.place import Place
from mai.recipe import ParallelConfig, Recipe
from recipes.debug.tiny import tiny
from tests.corpus import changed
from tests.parity.trainer import Curve, num_ranks, open_trainer
from tests.ranks import RankError, on_ranks

MICRO_BATCH_SEQUENCES, CHUNK_TOKENS, STEPS = 4, 100, 3
MODELS: dict[str, dict[str, Any]] = {
    "output layer of its own": {},
    "embedding": {"tied_embeddings": True},
    "further tokens": {"multi_token_depths": 2},
}


class LargestLogits(TorchDispatchMode):
    """Most rows of any tensor with a column for each entry of the vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.rows, self._vocabulary = 0, vocabulary

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dim() > 1 and out.size(-1) == self._vocabulary:
            self.rows = max(self.rows, out.numel() // self._vocabulary)
        return out


Trained = tuple[Curve, int]
"""Loss and norm of each step, the held-out loss, and the most rows of logits."""


def trained(place: Place, recipe: Recipe) -> tuple[Trained, Trained]:
    """Runs on every rank: some steps and an evaluation with logits in chunks, then with whole ones."""
    in_chunks = partial(linear_cross_entropy.fused, chunk_tokens=CHUNK_TOKENS)
    return _trained(place, recipe, in_chunks), _trained(place, recipe, None)


def _trained(place: Place, recipe: Recipe, operation: Any) -> Trained:
    trainer = open_trainer(place, recipe, is_synthetic=True)
    for module in trainer.engine._virtual_stages:
        module.config.operations = replace(module.config.operations, linear_cross_entropy=operation)
    with LargestLogits(recipe.model.vocab_size // recipe.parallel.tensor) as logits:
        curve = [*trainer.curve(range(STEPS)), trainer.evaluate(32)]
    trainer.close()
    return curve, logits.rows


def recipe_of(model: dict[str, Any], **axes: Any) -> Recipe:
    recipe = changed(tiny(), model={"num_layers": 2, **model}, train={"batch_tokens": 16 * 64, "steps": STEPS})
    parallel = {"data": 1, "micro_batch_sequences": MICRO_BATCH_SEQUENCES, **axes}
    return replace(recipe, parallel=ParallelConfig(**parallel))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "axes", [{}, {"tensor": 2, "sequence": True}, {"pipeline": 2}], ids=["one rank", "tensor", "pipeline"]
)
def test_chunks_give_the_losses_and_norms_of_whole_logits(model: str, axes: dict[str, Any]) -> None:
    recipe = recipe_of(MODELS[model], **axes)
    tokens = MICRO_BATCH_SEQUENCES * recipe.data.sequence_length
    assert tokens % CHUNK_TOKENS, "the last chunk is shorter"
    for in_chunks, whole in on_ranks(num_ranks(recipe.parallel), trained, recipe):
        for our, their in zip(in_chunks[0], whole[0], strict=True):
            assert our == pytest.approx(their, rel=1e-6, abs=0)
    assert (in_chunks[1], whole[1]) == (CHUNK_TOKENS, tokens), "of the last rank, which has the output layer"


def with_another_loss(place: Place, recipe: Recipe) -> None:
    """Runs on one rank: a loss that the recipe does not name."""
    from mai.engine.engine import summed
    from mai.objective.pretrain import Pretrain

    trainer = open_trainer(place, recipe, is_synthetic=True)
    batch = Pretrain().batch(trainer.training, range(recipe.batch_sequences))
    trainer.engine.forward_backward(batch, lambda losses, batch: 2 * summed(losses, batch))


def test_a_loss_that_the_recipe_does_not_name_is_refused() -> None:
    with pytest.raises(RankError, match="linear_cross_entropy: the loss has another gradient"):
        on_ranks(1, with_another_loss, recipe_of({}))
