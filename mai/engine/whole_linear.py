"""A matrix that tensor ranks do not cut: the projections down to a latent vector, and back from it."""

import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig
from torch import Tensor


class WholeLinear(torch.nn.Module):
    """A matrix that every tensor rank holds whole, for its part of the sequence."""

    def __init__(self, input_size: int, output_size: int, *, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.empty(output_size, input_size, dtype=config.params_dtype, device=torch.get_default_device())
        )
        # Where each tensor rank sees a part of the sequence only, Megatron sums this weight's gradient over them.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)
