"""How far a computed tensor lies from the exact one, which is the same in float64."""

from torch import Tensor

# Where the exact answer is zero, as a gradient through a share of one, float64 computes 0 or 1e-17, as the processor
# rounds. Numbers of tests are of size one: what is below this has no relative error.
LEAST_NORM = 1e-8


def relative_error(ours: Tensor, exact: Tensor) -> float:
    """Of the whole tensor by L2 norm; NaN where either holds one."""
    return float((ours.double() - exact).norm() / exact.norm().clamp(min=LEAST_NORM))
