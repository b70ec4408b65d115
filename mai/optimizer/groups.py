"""Which parameters decay."""

from collections.abc import Sequence


def decays(shape: Sequence[int]) -> bool:
    """Matrices decay; norm weights and biases, which are vectors, do not (GPT-3, arXiv 2005.14165, appendix B)."""
    return len(shape) > 1
