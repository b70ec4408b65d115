"""`objective.loss`: a loss of the user's own, loaded and held to what the engine needs of it."""

from pathlib import Path

import torch
from torch import Tensor

from mai.batch import Batch
from mai.engine.engine import Loss
from mai.errors import RecipeError
from mai.recipe.named_function import load_function
from mai.recipe.source_file import blaming


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
        if token_losses_BS.requires_grad and not value.requires_grad:
            raise RecipeError(f"objective.loss={text}: {_DETACHED}")
        return value

    _try(scalar, text)
    return scalar


_DETACHED = (
    "does not hang on the token losses (detached, or made new): it would train nothing; return a sum that is computed "
    "of them"
)


def _try(loss: Loss, text: str) -> None:
    """Before anything is built: on a few losses, what is wrong with any."""
    losses_BS = torch.rand(2, 6, generator=torch.Generator().manual_seed(0)).add(1).requires_grad_()
    tokens_BS = torch.arange(12).view(2, 6)
    with blaming(Path(text.rpartition(":")[0]).expanduser()), torch.enable_grad():
        value = loss(losses_BS, Batch(tokens_BS=tokens_BS, targets_BS=tokens_BS + 1))
        (gradient_BS,) = torch.autograd.grad(value, losses_BS, allow_unused=True)
    if gradient_BS is None or not bool(gradient_BS.any()):
        raise RecipeError(f"objective.loss={text}: {_DETACHED}")
