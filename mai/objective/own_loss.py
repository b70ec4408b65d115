"""`objective.loss`: a loss of the user's own, loaded and held to what the engine needs of it."""

import torch
from torch import Tensor

from mai.batch import Batch
from mai.engine.engine import Loss
from mai.errors import RecipeError
from mai.recipe.named_function import call_function, load_function


def own_loss(text: str) -> Loss:
    """The function that path/to/file.py:function names; RecipeError where it cannot be loaded or gives no scalar."""
    function = load_function(text, knob="objective.loss")

    def scalar(token_losses_BS: Tensor, batch: Batch) -> Tensor:
        return _checked(function(token_losses_BS, batch), token_losses_BS, text)

    _try(text)
    return scalar


_DETACHED = (
    "does not hang on the token losses (detached, or made new): it would train nothing; return a sum that is computed "
    "of them"
)


def _checked(value: object, token_losses_BS: Tensor, text: str) -> Tensor:
    """What the function gave, if the engine can train on it."""
    if not isinstance(value, Tensor) or value.dim() > 0:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise RecipeError(
            f"objective.loss={text}: returned {type(value).__name__}{shape}; return the sum to train on, "
            "a tensor without dims"
        )
    if token_losses_BS.requires_grad and not value.requires_grad:
        raise RecipeError(f"objective.loss={text}: {_DETACHED}")
    return value


def _try(text: str) -> None:
    """Before anything is built: on a few losses, what is wrong with any."""
    losses_BS = torch.rand(2, 6, generator=torch.Generator().manual_seed(0)).add(1).requires_grad_()
    tokens_BS = torch.arange(12).view(2, 6)
    batch = Batch(tokens_BS=tokens_BS, targets_BS=tokens_BS + 1)
    with torch.enable_grad():
        value = _checked(call_function(text, losses_BS, batch, knob="objective.loss"), losses_BS, text)
    (gradient_BS,) = torch.autograd.grad(value, losses_BS, allow_unused=True)
    if gradient_BS is None or not bool(gradient_BS.any()):
        raise RecipeError(f"objective.loss={text}: {_DETACHED}")
