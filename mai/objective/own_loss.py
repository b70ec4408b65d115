"""`objective.loss`: a loss of the user's own, loaded and held to what the engine needs of it."""

from torch import Tensor

from mai.batch import Batch
from mai.engine.engine import Loss
from mai.errors import RecipeError
from mai.recipe.named_function import load_function


def own_loss(text: str) -> Loss:
    """The function that path/to/file.py:function names; RecipeError where it cannot be loaded or gives no scalar."""
    function = load_function(text, knob="objective.loss")

    def scalar(token_losses_BS: Tensor, batch: Batch) -> Tensor:
        value = function(token_losses_BS, batch)
        if not isinstance(value, Tensor) or value.dim() > 0:
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise RecipeError(
                f"objective.loss={text}: returned {type(value).__name__}{shape}; return the sum to train on, "
                "a tensor without dims"
            )
        return value

    return scalar
