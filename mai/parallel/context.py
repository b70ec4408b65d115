"""Which positions of a sequence each context-parallel rank holds: an early and a late part, so that causal attention
costs every rank the same (Llama 3, arXiv 2407.21783, section 3.3.2)."""


def own_parts(length: int, *, rank: int, ranks: int) -> tuple[range, range]:
    """The early and the late part of one of `ranks` ranks; `length` must be a multiple of 2 * ranks."""
    size = length // (2 * ranks)
    assert size * 2 * ranks == length
    early, late = rank, 2 * ranks - 1 - rank
    return range(early * size, (early + 1) * size), range(late * size, (late + 1) * size)


def order_of_all_parts(ranks: int) -> list[int]:
    """Which part of the sequence comes at each place when all ranks' parts are laid end to end, rank by rank."""
    return [part for rank in range(ranks) for part in (rank, 2 * ranks - 1 - rank)]
