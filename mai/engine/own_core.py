"""`model.attention_core`: a core of the user's own, held to what an attention core must do before a model is built on
it.

Shapes: Q queries, the last of K positions, B sequences, H query heads, G key and value heads, D head size.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mai.errors import RecipeError
from mai.recipe import ModelConfig
from mai.recipe.named_function import call_function

_POSITIONS, _QUERIES, _SEQUENCES = 8, 3, 2


def check_own_core(model: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> None:
    """Try the model's own core, if it names one, on a few numbers.

    Raises RecipeError where it cannot be loaded, gives another shape, sees what comes later, or does not depend on what
    it is given."""
    text = model.attention_core
    if text is None or device.type == "meta":
        return
    core = partial(call_function, text, knob="model.attention_core")
    if (wrong := _what_is_wrong(core, model, dtype, device)) is not None:
        raise RecipeError(f"model.attention_core={text}: {wrong}")


def _sizes(model: ModelConfig) -> tuple[int, int]:
    """Numbers of a query and key, and of a value."""
    latent = model.latent_attention
    if latent is None:
        return model.head_size, model.head_size
    return model.head_size + latent.rotary_head_size, latent.value_head_size


def _what_is_wrong(
    core: Callable[..., Tensor], model: ModelConfig, dtype: torch.dtype, device: torch.device
) -> str | None:
    key_size, value_size = _sizes(model)
    generator = torch.Generator().manual_seed(0)

    def drawn(heads: int, size: int) -> Tensor:
        numbers = torch.randn(_POSITIONS, _SEQUENCES, heads, size, generator=generator)
        return numbers.to(device, dtype)

    query, key, value = drawn(model.num_heads, key_size), *(drawn(model.num_kv_heads, size) for size in _sizes(model))
    out = core(query, key, value)
    shape = (_POSITIONS, _SEQUENCES, model.num_heads, value_size)
    if not isinstance(out, Tensor) or tuple(out.shape) != shape:
        given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        return f"gives {given} for queries {tuple(query.shape)}; return {shape}"
    other = torch.cat([value[:-1], -value[-1:]])
    later = core(query, torch.cat([key[:-1], -key[-1:]]), other)
    last = core(query[-_QUERIES:], key, value)
    leaves = [x.detach().requires_grad_() for x in (query, key, value)]
    given_back = core(*leaves)
    gradients = (
        torch.autograd.grad(given_back.float().square().sum(), leaves, allow_unused=True)
        if given_back.requires_grad
        else (None, None, None)
    )
    bound = 1e-5 if dtype is torch.float32 else 2e-2
    if not _is_near(out[:-1], later[:-1], bound):
        return "sees what comes later: with another last key and value, earlier queries get something else"
    if not _is_near(out[-_QUERIES:], last, bound):
        return (
            f"takes its queries for the first of the positions: the last {_QUERIES} alone get something else than "
            "among all; where there are fewer queries than keys they are the last"
        )
    for name, gradient in zip(("queries", "keys", "values"), gradients, strict=True):
        if gradient is None or not bool(gradient.any()):
            return f"does not depend on its {name}, or gives them no gradient: nothing would learn"
    return None


def _is_near(ours: Tensor, theirs: Tensor, bound: float) -> bool:
    return ours.shape == theirs.shape and float((ours.float() - theirs.float()).abs().max()) <= bound
