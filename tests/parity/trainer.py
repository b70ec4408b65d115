"""An engine with the loop around it, as ranks of tests run it: one layout, or one after another in the same processes.

trainer = open_trainer(place, recipe)           on every rank
trainer.curve(range(20))                        loss and gradient norm of each step
trainer.close()                                 before the next layout
"""

import gc
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mai.parallel.place import Place
from mai.recipe import ParallelConfig, Recipe

Curve = list[tuple[float, float]]
"""Loss and gradient norm of each step."""

STEPS = 20
BATCH_SEQUENCES = 16
HELD_OUT_SEQUENCES = 32


@dataclass
class Trainer:
    """What a rank holds of a run; all ranks call alike."""

    place: Place
    recipe: Recipe
    layout: Any
    engine: Any
    training: Any
    held_out: Any

    def batch(self, first: int, number: int) -> Any:
        """This data-parallel rank's part of so many sequences from the first on."""
        from mai.objective.pretrain import Pretrain

        return Pretrain().batch(self.training, self._share(first, number))

    def forward_backward(self, step: int) -> Any:
        from mai.engine.engine import summed

        number = self.recipe.batch_sequences
        return self.engine.forward_backward(self.batch(step * number, number), summed)

    def apply(self, gradients: Any, step: int) -> None:
        from mai.optimizer.schedule import learning_rate_at

        rate = learning_rate_at(step, optimizer=self.recipe.optimizer, steps=self.recipe.train.steps)
        self.engine.apply(gradients, learning_rate=rate)

    def step(self, step: int) -> tuple[float, float]:
        gradients = self.forward_backward(step)
        self.apply(gradients, step)
        return gradients.loss, gradients.norm

    def curve(self, steps: Iterable[int]) -> Curve:
        return [self.step(step) for step in steps]

    def evaluate(self, num_sequences: int) -> tuple[float, int]:
        """Sum of the loss over the first held-out sequences, and their number of tokens."""
        from mai.objective.pretrain import Pretrain

        batch = Pretrain().batch(self.held_out, self._share(0, num_sequences))
        return self.engine.evaluate(batch)  # type: ignore[no-any-return]

    def save(self, checkpoints: Path, *, step: int) -> None:
        from mai.checkpoint.manifest import Progress
        from mai.checkpoint.save import SaveContext, begin_save

        context = SaveContext(
            checkpoints=checkpoints,
            attempt=1,
            rank=self.place.rank,
            keep=1,
            layout={},
            recipe_fingerprint="",
            data_fingerprint="",
            timeout_seconds=60,
        )
        position = step * self.recipe.batch_sequences
        progress = Progress(step=step, position=position, tokens=0, updates=self.engine.updates)
        begin_save(self.engine.shards(), progress, context).finish()

    def load(self, checkpoints: Path) -> int:
        """The newest checkpoint; returns its step."""
        from mai.checkpoint.resume import resume

        shards = self.engine.shards()
        manifest = resume(checkpoints, shards, check=lambda _: None, leave_out=lambda *_: None, timeout_seconds=60)
        assert manifest is not None
        self.engine.finish_load(updates=manifest.progress.updates)
        return manifest.progress.step

    def close(self) -> None:
        """So that the same processes can hold another layout."""
        self.engine = None
        end_groups()

    def _share(self, first: int, number: int) -> range:
        """This data-parallel rank's positions, of `number` from `first` on."""
        from mai.data.loader import batch_positions

        return batch_positions(
            first,
            batch_sequences=number,
            data_rank=self.engine.groups.data_rank,
            data_ranks=self.layout.data,
        )


def open_trainer(
    place: Place, recipe: Recipe, *, is_synthetic: bool = False, timeout_seconds: float = 120.0
) -> Trainer:
    """On the prepared corpus that the recipe names, or on made-up tokens."""
    import torch.distributed as dist

    from mai.engine.device import open_device
    from mai.engine.engine import Engine
    from mai.engine.groups import build_groups, join_world
    from mai.parallel.layout import Layout

    device = open_device("cpu", place)
    if not dist.is_initialized():
        join_world(backend="gloo", place=place, timeout_seconds=timeout_seconds)
    layout = Layout.of(recipe.parallel, world_size=place.world_size)
    engine = Engine(recipe, layout, build_groups(layout, timeout_seconds=timeout_seconds), device)
    training, held_out = _synthetic(recipe) if is_synthetic else _of_corpus(recipe)
    return Trainer(place, recipe, layout, engine, training, held_out)


def end_groups() -> None:
    """So that the same processes can build others; after the last use of the model that holds them."""
    from mai.engine.groups import destroy_groups

    destroy_groups()
    # gloo's threads end with the last that refers to their group, here parts of the model that refer to each other.
    # Each thread wakes a hundred times a second: after ten layouts those of eight ranks leave no time for the tests.
    gc.collect()


def _synthetic(recipe: Recipe) -> tuple[Any, Any]:
    from mai.data.synthetic import synthetic_sequences

    sizes = recipe.model.vocab_size, recipe.data.sequence_length
    return synthetic_sequences(*sizes, seed=recipe.train.seed), synthetic_sequences(*sizes, seed=recipe.train.seed + 1)


def _of_corpus(recipe: Recipe) -> tuple[Any, Any]:
    from mai.data.loader import held_out_sequences, open_dataset, training_sequences

    dataset = open_dataset(recipe)
    return training_sequences(dataset, recipe), held_out_sequences(dataset, recipe)


def curves(place: Place, recipes: list[Recipe]) -> list[Curve]:
    """Runs on every rank: 20 steps of one layout after the other."""
    found = []
    for recipe in recipes:
        trainer = open_trainer(place, recipe)
        found.append(trainer.curve(range(STEPS)))
        trainer.close()
    return found


def load_save_and_train(place: Place, recipe: Recipe, saved: Path, out: Path, num_steps: int) -> Curve:
    """Runs on every rank: load, save again, and train some steps more."""
    trainer = open_trainer(place, recipe)
    step = trainer.load(saved)
    trainer.save(out, step=step)
    return trainer.curve(range(step, step + num_steps))


def num_ranks(parallel: ParallelConfig) -> int:
    assert parallel.data is not None
    return parallel.model_ranks * parallel.data


def name_of(parallel: ParallelConfig, *, beside: ParallelConfig | None = None) -> str:
    """As a reader of a table finds it: only what differs from one rank, or from another layout."""
    alone = ParallelConfig(data=1, micro_batch_sequences=parallel.micro_batch_sequences)
    words = []
    for axis in ParallelConfig.__dataclass_fields__:
        value = getattr(parallel, axis)
        if value != getattr(beside or alone, axis):
            words.append(axis if value is True else f"{axis} {'+'.join(value) if isinstance(value, tuple) else value}")
    return ", ".join(words) or ("" if beside else "one rank")
