"""Where a run stands: all that a resume needs besides the tensors."""

from dataclasses import dataclass, replace

from mai.recipe import Recipe


@dataclass(frozen=True, slots=True)
class TrainState:
    step: int = 0
    """Steps done."""
    position: int = 0
    """Sequences consumed: the data order is a function of it."""
    tokens: int = 0

    def advanced(self, recipe: Recipe) -> "TrainState":
        """The state after one more batch."""
        return replace(
            self,
            step=self.step + 1,
            position=self.position + recipe.batch_sequences,
            tokens=self.tokens + recipe.train.batch_tokens,
        )
