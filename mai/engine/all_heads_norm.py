"""RMSNorm of the queries, or of the keys, over all heads at once (OLMo 2, arXiv 2501.00656, section 2): tensor ranks,
each with some of the heads, share the mean square.

Shapes: S positions, B sequences, H heads of this rank, D head size.
"""

from typing import Any

import torch
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor

from mai.kernels.operators import wide


class AllHeadsNorm(MegatronModule):
    """The norm of this rank's heads; all tensor ranks must call."""

    def __init__(
        self, config: TransformerConfig, size: int, *, epsilon: float, group: torch.distributed.ProcessGroup
    ) -> None:
        """`size`: numbers of this rank's heads."""
        super().__init__(config=config)
        self.epsilon, self.tensor_group = epsilon, group
        self.size_of_all = size * group.size()
        self.weight = torch.nn.Parameter(
            torch.empty(size, dtype=config.params_dtype, device=torch.get_default_device())
        )
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self, x_SBHD: Tensor) -> Tensor:
        x = wide(x_SBHD)
        squares_SB11 = x.square().sum(dim=(2, 3), keepdim=True)
        if self.tensor_group.size() > 1:
            # Every rank's result hangs on every rank's sum: so does its gradient.
            squares_SB11 = reduce_from_tensor_model_parallel_region(squares_SB11, group=self.tensor_group)
            squares_SB11 = copy_to_tensor_model_parallel_region(squares_SB11, group=self.tensor_group)
        normal = x * torch.rsqrt(squares_SB11 / self.size_of_all + self.epsilon)
        weight_HD = wide(self.weight).view(x_SBHD.shape[2:])
        if self.config.layernorm_zero_centered_gamma:
            weight_HD = weight_HD + 1
        return (normal * weight_HD).to(x_SBHD.dtype)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The weight, which tensor ranks share by heads."""
        assert metadata is not None
        return make_sharded_tensors_for_checkpoint(  # type: ignore[no-any-return]
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=self.tensor_group,
            dp_cp_group=metadata["dp_cp_group"],
        )
