"""What ranks of tests compute of batches with weights, segments and positions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mai.batch import Batch
from mai.parallel.place import Place
from mai.recipe import ParallelConfig, Recipe
from tests.parity.steps import Picks, Piece, pieces_of
from tests.parity.trainer import Trainer, open_trainer

DRAW = 7
BETA = 0.5


@dataclass(frozen=True)
class Computed:
    """What one rank saw of one batch."""

    loss: float
    norm: float
    multi_token_loss: float
    """0 without further depths."""
    gradients: list[Piece]
    log_probs: Any = None
    """Of this rank's sequences, as numpy, by the engine that trains."""
    frozen_log_probs: Any = None
    """By a model that does not, of the same weights."""
    routing: Picks | None = None
    counts: tuple[Any, ...] = ()
    """Tokens that each router's balance counted."""


def forward_backward(trainer: Trainer, batch: Batch) -> Computed:
    """Gradients of a batch, as they are before they are applied."""
    from mai.engine.engine import summed
    from mai.engine.experts import routers

    found = trainer.engine.forward_backward(batch, summed)
    counts = [router.tokens_per_expert for router in routers(trainer.engine._virtual_stages)]
    return Computed(
        loss=found.loss,
        norm=found.norm,
        multi_token_loss=found.multi_token_loss or 0.0,
        gradients=pieces_of(trainer.engine.gradients()),
        counts=tuple(count.numpy().copy() for count in counts if count is not None),
    )


def packed_and_unpacked(place: Place, recipes: Sequence[Recipe]) -> list[tuple[Computed, Computed]]:
    """Runs on one rank: rows of several segments, and the same segments in rows of their own, filled up."""
    from mai.certify.annotated import annotated

    found = []
    for recipe in recipes:
        number = recipe.batch_sequences
        trainer = open_trainer(place, recipe, is_synthetic=True)
        packed = annotated(trainer.batch(0, number), range(number), draw=DRAW, has_segments=True)
        packed = replace(packed, weights_BS=_without_borders(packed))
        computed = forward_backward(trainer, packed)
        trainer.close()
        rows = unpacked(packed)
        alone = replace(recipe.parallel, micro_batch_sequences=rows.tokens_BS.size(0))
        trainer = open_trainer(place, replace(recipe, parallel=alone), is_synthetic=True)
        found.append((computed, forward_backward(trainer, rows)))
        trainer.close()
    return found


def _without_borders(packed: Batch) -> Tensor:
    """The weights, but that no segment predicts what the next one begins with."""
    assert packed.weights_BS is not None
    assert packed.segments_BS is not None
    stays = torch.zeros_like(packed.segments_BS, dtype=torch.bool)
    stays[:, :-1] = packed.segments_BS[:, 1:] == packed.segments_BS[:, :-1]
    return packed.weights_BS * stays


def unpacked(packed: Batch) -> Batch:
    """Each segment at the beginning of a row of its own, with nothing else said but which targets count."""
    assert packed.segments_BS is not None
    assert packed.weights_BS is not None
    rows = []
    for sequence, segments in enumerate(packed.segments_BS):
        for segment in segments.unique():
            of_segment = segments == segment
            fill = len(segments) - int(of_segment.sum())
            rows.append(
                [
                    F.pad(x[sequence][of_segment], (0, fill))
                    for x in (packed.tokens_BS, packed.targets_BS, packed.weights_BS)
                ]
            )
    tokens, targets, weights = (torch.stack(each) for each in zip(*rows, strict=True))
    return Batch(tokens, targets, weights_BS=weights)


def layout_of_batch(place: Place, recipes: Sequence[Recipe], replays: Sequence[Picks] | None) -> list[Computed]:
    """Runs on every rank: an annotated batch in one layout after another, its log-probabilities before, by the engine
    and by a model without an optimizer. One rank writes its routing down."""
    found = []
    for recipe, replay in zip(recipes, replays or [None] * len(recipes), strict=True):
        from mai.certify.annotated import annotated

        trainer = open_trainer(place, recipe, is_synthetic=True)
        number = recipe.batch_sequences
        batch = annotated(trainer.batch(0, number), trainer._share(0, number), draw=DRAW, has_segments=True)
        log_probs = trainer.engine.log_probs(batch)
        records = replay is None and recipe.model.experts is not None
        if records:
            trainer.engine.record_routing()
        elif replay:
            trainer.engine.replay_routing({name: torch.from_numpy(picks) for name, picks in replay.items()})
        computed = forward_backward(trainer, batch)
        routing = {name: picks.numpy() for name, picks in trainer.engine.recorded_routing().items()} if records else {}
        frozen = frozen_model(trainer).log_probs(batch)
        found.append(replace(computed, log_probs=log_probs.numpy(), frozen_log_probs=frozen.numpy(), routing=routing))
        trainer.close()
    return found


def frozen_model(trainer: Trainer) -> Any:
    """With the recipe's initial weights, on the same groups."""
    from mai.engine.device import open_device
    from mai.engine.frozen_model import FrozenModel

    return FrozenModel(
        trainer.recipe,
        trainer.layout,
        trainer.engine.groups,
        open_device("cpu", trainer.place),
        max_length=trainer.recipe.data.sequence_length,
    )


def preferences(log_probs_BS: Tensor, counts_BS: Tensor) -> Tensor:
    """DPO's loss without a reference (arXiv 2305.18290, equation 7): the first half of the rows is chosen, the second
    half rejected, pair by pair; a mean over pairs."""
    chosen_P, rejected_P = (log_probs_BS * counts_BS).sum(dim=1).chunk(2)
    return -F.logsigmoid(BETA * (chosen_P - rejected_P)).mean()


def preference_batch(recipe: Recipe, sequences: Any) -> Batch:
    """All pairs, with weights of 1 where an answer is and 0 where a prompt is."""
    from mai.objective.pretrain import Pretrain

    batch = Pretrain().batch(sequences, range(recipe.batch_sequences))
    lengths = 5 + 3 * torch.arange(recipe.batch_sequences)[:, None]
    return replace(batch, weights_BS=(torch.arange(batch.tokens_BS.size(1)) >= lengths).float())


def preference_gradients(place: Place, recipe: Recipe) -> list[Piece]:
    """Runs on every rank: DPO through the engine; pairs are cut over micro-batches and data-parallel ranks."""
    import torch.distributed as dist

    trainer = open_trainer(place, recipe, is_synthetic=True)
    batch = preference_batch(recipe, trainer.training)
    own = batch.each(lambda x: x.chunk(trainer.layout.data)[trainer.engine.groups.data_rank])
    # The losses need whole pairs, whose halves lie on different ranks.
    parts = [torch.empty(0)] * trainer.layout.world_size
    dist.all_gather_object(parts, trainer.engine.log_probs(own))
    between = trainer.layout.tensor * trainer.layout.context
    log_probs_BS = torch.cat([parts[data * between] for data in range(trainer.layout.data)]).requires_grad_()
    assert batch.weights_BS is not None
    (g_BS,) = torch.autograd.grad(preferences(log_probs_BS, batch.weights_BS), log_probs_BS)
    weights_BS = -g_BS * trainer.engine.num_counted(own)
    own = replace(own, weights_BS=weights_BS.chunk(trainer.layout.data)[trainer.engine.groups.data_rank])
    return forward_backward(trainer, own).gradients


def preference_autograd(place: Place, recipe: Recipe) -> dict[str, Any]:
    """Runs on one rank: the same gradients by autograd through the whole batch at once."""
    trainer = open_trainer(
        place, replace(recipe, kernels="reference", parallel=ParallelConfig(data=1)), is_synthetic=True
    )
    batch = preference_batch(recipe, trainer.training)
    model = trainer.engine._virtual_stages[0]
    assert batch.weights_BS is not None
    loss = preferences(-model(batch.tokens_BS, None, None, labels=batch.targets_BS), batch.weights_BS)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return {name: x.numpy() for name, x in zip(names, torch.autograd.grad(loss, parameters), strict=True)}
