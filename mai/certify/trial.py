"""What every rank of a trial does: a few steps on tokens that follow from a seed, and a record of what it held."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mai.batch import Batch
from mai.certify.annotated import annotated
from mai.certify.values import Kind, Numbers, Piece, Writer
from mai.data.loader import batch_positions
from mai.data.synthetic import synthetic_sequences
from mai.engine.device import open_device
from mai.engine.engine import Engine
from mai.engine.groups import build_groups, join_world, leave_world
from mai.engine.shard import WEIGHT, Shard
from mai.errors import ExitCode
from mai.objective.choose_objective import objective_of
from mai.optimizer.optimizers import optimizer_of
from mai.optimizer.schedule import learning_rate_at
from mai.parallel.layout import Layout
from mai.parallel.place import Place
from mai.recipe import ParallelConfig, PrecisionConfig, Recipe, ResilienceConfig
from mai.train.foreign_errors import foreign_errors_named

NUM_STEPS = 4

PLAIN, WEIGHTED = "every target counts 1", "weights of 0, 1 and fractions"
PACKED = f"{WEIGHTED}; rows in segments, each with positions of its own"
"""What the batch of a step says of its tokens."""

_FIRST_ANNOTATED_STEP = 3

# No step of a shrunk recipe takes seconds: who is silent for so long hangs.
_IMPATIENT = ResilienceConfig(peer_timeout_seconds=120.0)


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of ranks that computes the steps."""

    title: str
    """`fp32, 8 ranks`."""
    recipe: Recipe
    num_ranks: int


def trials(recipe: Recipe) -> list[Trial]:
    """One rank and the layout, of a shrunk recipe, in fp32, and then in bf16 where that is what the recipe computes in.

    One rank computes nothing again and shares out nothing, so that recomputing and sharding are on trial too."""
    parallel = recipe.parallel
    assert parallel.data is not None
    alone = ParallelConfig(data=1, micro_batch_sequences=parallel.micro_batch_sequences)
    ranks = parallel.model_ranks * parallel.data
    found = []
    for compute in recipe.precision.formats:
        same = replace(recipe, precision=PrecisionConfig(compute=compute), resilience=_IMPATIENT)
        found.append(Trial(f"{compute}, 1 rank", replace(same, parallel=alone), 1))
        found.append(Trial(f"{compute}, {ranks} ranks", same, ranks))
    return found


def run(recipe: Recipe, folder: Path, *, draw: int, place: Place) -> ExitCode:
    """Take the steps and write down what this rank holds; all ranks must call. `draw` chooses the tokens."""
    with foreign_errors_named():
        device, timeout_seconds = open_device("cpu", place), recipe.resilience.peer_timeout_seconds
        join_world(backend=device.backend, place=place, timeout_seconds=timeout_seconds)
        layout = Layout.of(recipe.parallel, world_size=place.world_size)
        engine = Engine(recipe, layout, build_groups(layout, timeout_seconds=timeout_seconds), device)
        with Writer(folder, rank=place.rank) as writer:
            _steps(recipe, layout, engine, writer, draw=draw)
        leave_world()
    return ExitCode.COMPLETE


def _steps(recipe: Recipe, layout: Layout, engine: Engine, writer: Writer, *, draw: int) -> None:
    objective = objective_of(recipe)
    sequences = synthetic_sequences(recipe.model.vocab_size, recipe.data.sequence_length, draw)
    _write(writer, 0, engine.shards(), {WEIGHT: "weight"})
    annotation = PLAIN
    for step in range(1, NUM_STEPS + 1):
        positions = batch_positions(
            (step - 1) * recipe.batch_sequences,
            batch_sequences=recipe.batch_sequences,
            data_rank=engine.groups.data_rank,
            data_ranks=layout.data,
        )
        batch = objective.batch(sequences, positions)
        if step >= _FIRST_ANNOTATED_STEP:
            batch, annotation = _annotated(engine, batch, positions, draw=draw)
        gradients = engine.forward_backward(batch, objective.loss)
        writer.add_scalars(step, loss=gradients.loss, norm=gradients.norm, batch=annotation)
        _write(writer, step, engine.gradients(), {"gradient": "gradient"})
        engine.apply(gradients, learning_rate=learning_rate(recipe, step))
        _write(writer, step, engine.shards(), {WEIGHT: "weight", optimizer_of(recipe.optimizer).judged_by: "state"})


def _annotated(engine: Engine, batch: Batch, positions: range, *, draw: int) -> tuple[Batch, str]:
    """Weighted, and packed where all parts of the user's own can take it; and which of the two. All ranks must call."""
    packed = annotated(batch, positions, draw=draw, has_segments=True)
    if engine.takes(packed):
        return packed, PACKED
    return annotated(batch, positions, draw=draw, has_segments=False), WEIGHTED


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of the trial's step, counted from 1."""
    return learning_rate_at(step - 1, optimizer=recipe.optimizer, steps=recipe.train.steps)


def _write(writer: Writer, step: int, shards: list[Shard], kinds: dict[str, Kind]) -> None:
    for shard in shards:
        for state in kinds.keys() & shard.tensors.keys():
            writer.add(_piece(shard, step, kinds[state]), _numbers(shard.tensors[state]))


def _piece(shard: Shard, step: int, kind: Kind) -> Piece:
    block = shard.block
    return Piece(step, kind, block.name, block.global_shape, block.offset, block.shape, shard.start, shard.stop, at=0)


def _numbers(tensor: Tensor) -> Numbers:
    numbers: Numbers = tensor.detach().float().cpu().numpy()
    return numbers
