"""`mai/kernels/grouped_linear.py` on CUDA: torch's grouped product, one launch for all experts.

Where it is not for us, one product an expert, by the counts on the host: to ask the card would be to wait for it.
"""

import torch.nn.functional as F
from torch import Tensor

from mai.kernels.grouped_linear import one_by_one, takes_one_launch, weight_gradients_one_by_one


def product(x_NI: Tensor, weight_EIO: Tensor, ends_E: Tensor, counts_E: Tensor) -> Tensor:
    if x_NI.size(0) == 0:
        return x_NI.new_empty((0, weight_EIO.size(-1)))
    if not _is_for_the_library(x_NI, weight_EIO.size(-1)):
        return one_by_one(x_NI, weight_EIO, counts_E)
    return F.grouped_mm(x_NI.contiguous(), weight_EIO, offs=ends_E)


def weight_gradient(x_NI: Tensor, gradient_NO: Tensor, ends_E: Tensor, counts_E: Tensor) -> Tensor:
    if not _is_for_the_library(x_NI, gradient_NO.size(-1)):
        return weight_gradients_one_by_one(x_NI, gradient_NO, counts_E)
    out_EOI = F.grouped_mm(gradient_NO.contiguous().t(), x_NI.contiguous(), offs=ends_E)
    for expert, count in enumerate(counts_E.tolist()):
        if count == 0:
            # Some cards leave there what the memory held (pytorch issue 172439).
            out_EOI[expert].zero_()
    return out_EOI


def _is_for_the_library(x_NI: Tensor, num_outputs: int) -> bool:
    """It takes at least one token."""
    return x_NI.size(0) > 0 and takes_one_launch(x_NI.dtype, x_NI.size(-1), num_outputs, device=x_NI.device)
