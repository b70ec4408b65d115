"""The matrices that tensor ranks cut: whatever computes with one takes it from here.

Another product for all of them, FP8's say, enters here; the experts' matrices are in expert_matrices.py, and those that
tensor ranks do not cut in whole_linear.py.
"""

from typing import Any

from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

ColumnMatrix = ColumnParallelLinear
"""Each tensor rank holds some of the outputs, of the whole input."""

RowMatrix = RowParallelLinear
"""Each tensor rank holds what its part of the inputs gives; the ranks' sum is the output."""


class BiasedRowMatrix(RowParallelLinear):
    """With a bias, where Megatron's config, which speaks for all matrices, has none."""

    def __init__(self, *arguments: Any, bias: bool, **options: Any) -> None:
        del bias
        super().__init__(*arguments, bias=True, **options)
