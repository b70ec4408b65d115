"""Which implementation each operation of the hot path has: the recipe's `kernels`, resolved.

It travels as an attribute of Megatron's TransformerConfig, which reaches every module, a user's own included.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any, Literal

import torch

from mai.errors import EnvironmentMismatchError
from mai.kernels import (
    adamw,
    apex,
    cross_entropy,
    grouped_linear,
    heads,
    linear_cross_entropy,
    permutation,
    rms_norm,
    rope,
    routing,
    sum_of_squares,
    swiglu,
    weight_gradient,
)
from mai.kernels.cuda import library
from mai.optimizer.optimizers import optimizer_of
from mai.recipe import PrecisionConfig, Recipe

Kernel = Callable[..., Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operations:
    """What a model and its optimizer compute with; each one's meaning stands in `mai/kernels`."""

    rms_norm: Kernel
    rms_norm_of_sum: Kernel
    swiglu: Kernel
    weighted_swiglu: Kernel
    grouped_linear: Kernel
    heads: Kernel
    rope: Kernel
    routing: Kernel
    expert_rows: Kernel
    permute: Kernel
    unpermute: Kernel
    cross_entropy: Kernel | None
    """None: Megatron's own, in several passes."""
    linear_cross_entropy: Kernel | None
    """None: the output layer's product for all tokens, then `cross_entropy`."""
    sum_of_squares: Kernel | None
    """None: torch's norms of a list."""
    adamw: Kernel
    """The optimizer of that name: clipping, update and the copy of the weights."""
    weight_gradient: Kernel | None
    """None: a product of its own, then added to the sum."""


REFERENCE = Operations(
    rms_norm=rms_norm.reference,
    rms_norm_of_sum=rms_norm.reference_of_sum,
    swiglu=swiglu.reference,
    weighted_swiglu=swiglu.weighted_reference,
    grouped_linear=grouped_linear.reference,
    heads=heads.reference,
    rope=rope.reference,
    routing=routing.reference,
    expert_rows=permutation.reference_expert_rows,
    permute=permutation.reference_permute,
    unpermute=permutation.reference_unpermute,
    cross_entropy=None,
    linear_cross_entropy=None,
    sum_of_squares=None,
    adamw=adamw.reference,
    weight_gradient=None,
)
FUSED = Operations(
    rms_norm=rms_norm.fused,
    rms_norm_of_sum=rms_norm.fused_of_sum,
    swiglu=swiglu.fused,
    weighted_swiglu=swiglu.weighted_fused,
    grouped_linear=grouped_linear.fused,
    heads=heads.fused,
    rope=rope.fused,
    routing=routing.fused,
    expert_rows=permutation.fused_expert_rows,
    permute=permutation.fused_permute,
    unpermute=permutation.fused_unpermute,
    cross_entropy=cross_entropy.fused,
    linear_cross_entropy=linear_cross_entropy.fused,
    sum_of_squares=sum_of_squares.fused,
    adamw=adamw.fused,
    weight_gradient=weight_gradient.fused,
)


def choose(recipe: Recipe) -> Operations:
    """As `kernels` says; raises EnvironmentMismatchError for apex where it is not installed."""
    operations = _named(recipe.kernels)
    if recipe.parallel.sharding == "full":
        # FSDP2 keeps no running sum of a whole gradient to add to.
        operations = replace(operations, weight_gradient=None, linear_cross_entropy=None)
    if recipe.objective.loss is not None:
        # It may weigh each token as it likes, and only its backward pass says how.
        operations = replace(operations, linear_cross_entropy=None)
    return operations


def update_kernel(recipe: Recipe) -> Kernel:
    """What computes an update of the recipe's optimizer."""
    return getattr(choose(recipe), optimizer_of(recipe.optimizer).name)  # type: ignore[no-any-return]


def _named(kernels: Literal["auto", "reference", "apex"]) -> Operations:
    if kernels == "reference":
        return REFERENCE
    if kernels == "auto":
        return FUSED
    try:
        theirs = apex.load()
    except ImportError as error:
        raise EnvironmentMismatchError(
            f"kernels=apex: NVIDIA apex is not installed here with its CUDA extensions ({error}); "
            "use kernels=auto, which needs nothing else"
        ) from error
    return replace(FUSED, weight_gradient=theirs.weight_gradient, adamw=theirs.adamw)


def described(recipe: Recipe, device: Literal["cpu", "cuda"]) -> dict[str, str]:
    """Each operation and what computes it, for the run's record."""
    operations = choose(recipe)
    found = {field.name: _described(getattr(operations, field.name), device) for field in fields(operations)}
    # Two have a library where it takes the run's numbers, and else what any numbers have.
    if found["cross_entropy"] == _TRITON and _has_library_for_cross_entropy(recipe):
        found["cross_entropy"] = "fused, CUDA C++"
    if found["grouped_linear"] == _GROUPED_PRODUCT and not _has_grouped_product(recipe):
        found["grouped_linear"] = "fused, one expert after the other"
    return found


def _described(kernel: Kernel | None, device: Literal["cpu", "cuda"]) -> str:
    if kernel is None or "reference" in kernel.__name__:
        return "torch"
    if kernel.__module__ not in _OURS:
        return "apex"
    if device == "cpu":
        return "fused, in plain torch on a CPU"
    return _LIBRARIES.get(kernel, _TRITON)


def _has_library_for_cross_entropy(recipe: Recipe) -> bool:
    is_whole = recipe.parallel.tensor == 1
    return is_whole and library.takes_cross_entropy(compute_dtype(recipe.precision), recipe.model.vocab_size)


def _has_grouped_product(recipe: Recipe) -> bool:
    experts = recipe.model.experts
    if experts is None:
        return True
    features = experts.ffn_hidden_size // recipe.parallel.expert_tensor
    width = experts.latent_size or recipe.model.hidden_size
    return grouped_linear.takes_one_launch(
        compute_dtype(recipe.precision), width, features, device=torch.device("cuda")
    )


def compute_dtype(precision: PrecisionConfig) -> torch.dtype:
    """What matrices and activations are in."""
    return getattr(torch, precision.format.torch)  # type: ignore[no-any-return]


_TRITON, _GROUPED_PRODUCT = "fused, Triton", "fused, torch's grouped product"
_OURS = {getattr(FUSED, field.name).__module__ for field in fields(FUSED)}
_LIBRARIES = {
    weight_gradient.fused: "fused, cuBLAS",
    linear_cross_entropy.fused: "fused, cuBLAS",
    grouped_linear.fused: _GROUPED_PRODUCT,
}

# tensor_parallel/layers.py imports this name, which apex installs, when it is itself imported.
_MODULE = "fused_weight_gradient_mlp_cuda"


def offer_weight_gradient() -> None:
    """Before Megatron-Core is imported: let it find the module that it adds weight gradients with."""
    sys.modules.setdefault(_MODULE, ModuleType(_MODULE))


def use_weight_gradient(operations: Operations) -> None:
    """From now on Megatron-Core's matrices add their gradients with this one."""
    if operations.weight_gradient is not None:
        sys.modules[_MODULE].wgrad_gemm_accum_fp32 = operations.weight_gradient  # type: ignore[attr-defined]
