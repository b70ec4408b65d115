"""The operations of NVIDIA apex (github.com/NVIDIA/apex) under the names of ours: `kernels=apex`."""

import importlib
import importlib.util
from importlib.machinery import PathFinder
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mai.kernels.adamw_update import Update


def load() -> SimpleNamespace:
    """`weight_gradient` and `adamw` as our own; raises ImportError where apex's extensions are absent."""
    products = _own_module("fused_weight_gradient_mlp_cuda")
    multi_tensor = importlib.import_module("amp_C")
    applier = importlib.import_module("apex.multi_tensor_apply").multi_tensor_applier

    def adamw(
        weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, copy: Tensor | None, update: Update
    ) -> None:
        if update.gradient_factor != 1:
            gradient.mul_(update.gradient_factor)
        applier(
            multi_tensor.multi_tensor_adam,
            torch.zeros(1, dtype=torch.int, device=weight.device),
            [[gradient], [weight], [exp_avg], [exp_avg_sq]],
            update.learning_rate,
            update.beta1,
            update.beta2,
            update.epsilon,
            update.number,
            # csrc/multi_tensor_adam.cu: 1 is decoupled weight decay; then whether to correct the moments.
            1,
            1,
            update.weight_decay,
        )
        if copy is not None:
            copy.copy_(weight)

    return SimpleNamespace(weight_gradient=products.wgrad_gemm_accum_fp32, adamw=adamw)


def _own_module(name: str) -> Any:
    """apex's module of a name under which `mai/engine/operations.py` shows Megatron-Core another one."""
    spec = PathFinder.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(f"No module named {name!r}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
