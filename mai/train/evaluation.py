"""When a run is judged on held-out text, and by what."""

from mai.engine.engine import Engine
from mai.evaluate import bits_per_byte
from mai.recipe import Recipe
from mai.train.batches import Batches


class Evaluation:
    """Held-out loss at the recipe's interval, and at the end."""

    def __init__(self, recipe: Recipe, batches: Batches) -> None:
        self._recipe, self._batches = recipe, batches
        self._num_bytes = batches.held_out_bytes()

    def is_due(self, step: int) -> bool:
        every = self._recipe.evaluate.every_steps
        return step == self._recipe.train.steps or (every is not None and step % every == 0)

    def judge(self, engine: Engine) -> bits_per_byte.HeldOut:
        """All ranks must call."""
        return bits_per_byte.evaluate(engine, self._batches.held_out(), num_bytes=self._num_bytes)
