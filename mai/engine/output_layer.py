"""Megatron's output layer, which can also say the losses of its logits without ever holding all of them.

Shapes: S positions of this rank, B sequences, H hidden size, T tokens, V this rank's entries of the vocabulary.
"""

from typing import Any

import torch
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor

from mai.engine.matrices import ColumnMatrix
from mai.kernels import linear_cross_entropy


class OutputLayer(ColumnMatrix):
    """With targets it returns losses, otherwise Megatron's logits.

    Both in the one call of the module: before it, Megatron's data-parallel wrapper waits for the weight of the last
    update (distributed/distributed_data_parallel.py, _make_forward_pre_hook)."""

    def forward(
        self,
        hidden_SBH: Tensor,
        weight: Tensor | None = None,
        runtime_gather_output: bool | None = None,  # noqa: FBT001 (upstream's signature)
        *,
        targets_BS: Tensor | None = None,
        gradient_BS: Tensor | None = None,
        is_first: bool = True,
    ) -> Any:
        """Losses of the tokens [B, S], fp32; all tensor ranks must call.

        Args:
            weight: where it is the embedding's.
            gradient_BS: what the backward pass will bring for the losses, where that is not one for each.
            is_first: of this micro-batch's calls."""
        if self.config.logit_scale != 1:
            # Of the hidden state, as the logits may never be there.
            hidden_SBH = hidden_SBH * self.config.logit_scale
        if targets_BS is None:
            return super().forward(hidden_SBH, weight, runtime_gather_output)
        parameter: Any = self.weight if weight is None else weight
        group, operations = self.tp_group, self.config.operations
        if self.sequence_parallel:
            hidden_SBH = gather_from_sequence_parallel_region(hidden_SBH, group=group)
        else:
            hidden_SBH = copy_to_tensor_model_parallel_region(hidden_SBH, group=group)
        # Without gradients none is added up: a model that does not train has no sum.
        trains = torch.is_grad_enabled()
        losses_T = (operations.linear_cross_entropy or linear_cross_entropy.fused)(
            hidden_SBH.flatten(0, 1),
            parameter,
            targets_BS.t().flatten(),
            None if gradient_BS is None else gradient_BS.t().flatten(),
            sum_VH=parameter.main_grad if trains else None,
            first_entry=group.rank() * parameter.size(0),
            group=group,
            add_gradient=operations.weight_gradient,
        )
        losses_BS: Tensor = losses_T.view_as(targets_BS.t()).t().contiguous()
        # Once is enough: the next token's losses say it for those of further tokens.
        return _GradientIsAdded.apply(losses_BS, parameter) if is_first and trains else losses_BS  # type: ignore[no-untyped-call]


class _GradientIsAdded(torch.autograd.Function):
    """Tells Megatron's data-parallel wrapper in the backward pass that the weight's gradient is in `main_grad`, as all
    matrices do (tensor_parallel/layers.py, LinearWithGradAccumulationAndAsyncCommunication)."""

    @staticmethod
    def forward(ctx: Any, losses_BS: Tensor, weight: torch.nn.Parameter) -> Tensor:
        ctx.weight = weight
        return losses_BS.view_as(losses_BS)

    @staticmethod
    def backward(ctx: Any, gradient_BS: Tensor) -> tuple[Tensor, Tensor | None]:
        weight = ctx.weight
        weight.grad_added_to_main_grad = True
        # The wrapper waits for a gradient and throws it away. Of an embedding it waits for that of the lookup, and adds
        # it: Megatron's matrices add zeros to that one.
        is_embedding = getattr(weight, "zero_out_wgrad", False)
        return gradient_BS, None if is_embedding else torch.empty_like(weight)
