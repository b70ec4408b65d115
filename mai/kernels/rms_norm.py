"""RMSNorm (Zhang and Sennrich, arXiv 1910.07467): x / sqrt(mean(x^2) + epsilon) * weight, over the last dim."""

import torch.nn.functional as F
from torch import Tensor


def reference(x_H: Tensor, weight_H: Tensor, *, epsilon: float) -> Tensor:
    """Any leading shape, any float dtype; statistics in fp32 as torch does."""
    return F.rms_norm(x_H, weight_H.shape, weight_H, epsilon)
