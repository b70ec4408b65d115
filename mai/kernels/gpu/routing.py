"""`mai/kernels/routing.py` in Triton.

Shapes: T tokens, E experts, K picked ones of a token. A program holds all experts of a few tokens in registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mai.kernels.gpu.launch import cover

NUM_WARPS = 4
# A thread's: backward, a token needs few registers, and more programs are at work.
FORWARD_NUMBERS, BACKWARD_NUMBERS = 16, 8
TAKEN = tl.constexpr(-(2**63))


@triton.jit
def key_of(score, place, PLACES: tl.constexpr):
    """A whole number that is larger for a larger score, and of equal ones for the first place.

    NaN is a number too, so that a diverged run picks experts that exist."""
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (PLACES - 1 - place)


@triton.jit
def place_of(key, PLACES: tl.constexpr):
    return PLACES - 1 - (key & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def forward_kernel(
    logits,
    preference,
    weights,
    experts,
    picked,
    T,
    E,
    scale,
    preference_stride,
    K: tl.constexpr,
    IS_SIGMOID: tl.constexpr,
    IS_NORMALISED: tl.constexpr,
    PREFERS: tl.constexpr,
    GROUPS: tl.constexpr,
    OPEN_GROUPS: tl.constexpr,
    BEST_OF_GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < T) & (column < E)
    logit = tl.load(logits + row * E + column, mask=inside, other=float("-inf"))
    score = tl.sigmoid(logit) if IS_SIGMOID else logit
    if PREFERS:
        score += tl.load(preference + row * preference_stride + column, mask=inside, other=0)
    if GROUPS > 1:
        # The sum of a group's best scores, in each of its columns.
        group = column // (E // GROUPS)
        total = tl.full((TOKENS, BLOCK), float("-inf"), dtype=tl.float32)
        for one in tl.static_range(GROUPS):
            rest = tl.where((group == one) & inside, key_of(score, column, BLOCK), TAKEN)
            best = tl.zeros((TOKENS, 1), dtype=tl.float32)
            for _ in tl.static_range(BEST_OF_GROUP):
                is_best = column == place_of(tl.max(rest, axis=1, keep_dims=True), BLOCK)
                best += tl.sum(tl.where(is_best, score, 0), axis=1, keep_dims=True)
                rest = tl.where(is_best, TAKEN, rest)
            total = tl.where(group == one, best, total)
        rest = tl.where(inside, key_of(total, column, BLOCK), TAKEN)
        is_open = column < 0
        for _ in tl.static_range(OPEN_GROUPS):
            is_best = group == place_of(tl.max(rest, axis=1, keep_dims=True), BLOCK) // (E // GROUPS)
            is_open |= is_best
            rest = tl.where(is_best, TAKEN, rest)
        score = tl.where(is_open, score, float("-inf"))
    rest = tl.where(column < E, key_of(score, column, BLOCK), TAKEN)
    is_picked = column < 0
    for _ in tl.static_range(K):
        is_best = column == place_of(tl.max(rest, axis=1, keep_dims=True), BLOCK)
        is_picked |= is_best
        rest = tl.where(is_best, TAKEN, rest)
    if IS_SIGMOID:
        share = tl.where(is_picked, tl.sigmoid(logit), 0)
        if IS_NORMALISED:
            share /= tl.sum(share, axis=1, keep_dims=True) + 1e-20
    else:
        largest = tl.max(tl.where(is_picked, logit, float("-inf")), axis=1, keep_dims=True)
        share = tl.where(is_picked, tl.exp(logit - largest), 0)
        share /= tl.sum(share, axis=1, keep_dims=True)
    # Ascending: an expert's place among the picked is how many of them come before it.
    place = row * K + tl.cumsum(is_picked.to(tl.int32), axis=1) - 1
    tl.store(weights + place, share * scale, mask=is_picked & (row < T))
    tl.store(experts + place, (column + tl.zeros_like(place)).to(tl.int64), mask=is_picked & (row < T))
    tl.store(picked + place, logit, mask=is_picked & (row < T))


@triton.jit
def backward_kernel(
    picked,
    experts,
    gradient,
    of_logits,
    T,
    E,
    scale,
    K: tl.constexpr,
    IS_SIGMOID: tl.constexpr,
    IS_NORMALISED: tl.constexpr,
    PLACES: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)[:, None]
    place = tl.arange(0, PLACES)[None, :]
    inside = (row < T) & (place < K)
    logit = tl.load(picked + row * K + place, mask=inside, other=float("-inf"))
    expert = tl.load(experts + row * K + place, mask=inside, other=0)
    above = tl.load(gradient + row * K + place, mask=inside, other=0)
    if IS_SIGMOID:
        share = tl.sigmoid(logit)
        # Not 1 - share, which loses the digits of a share near 1.
        slope = share * tl.sigmoid(-logit)
        total = tl.sum(share, axis=1, keep_dims=True)
    else:
        share = tl.exp(logit - tl.max(logit, axis=1, keep_dims=True))
        share /= tl.sum(share, axis=1, keep_dims=True)
        slope = share
        total = tl.full((TOKENS, 1), 1, dtype=tl.float32)
    if IS_NORMALISED:
        above = (above - tl.sum(above * share, axis=1, keep_dims=True) / total) / total
    of_picked = scale * above * slope
    column = tl.arange(0, BLOCK)[None, :]
    result = tl.zeros((TOKENS, BLOCK), dtype=tl.float32)
    for one in tl.static_range(K):
        is_one = place == one
        whose = tl.sum(tl.where(is_one, expert, 0), axis=1, keep_dims=True)
        result = tl.where(column == whose, tl.sum(tl.where(is_one, of_picked, 0), axis=1, keep_dims=True), result)
    tl.store(of_logits + row * E + column, result, mask=(row < T) & (column < E))


def shape_of_launch(num_experts: int, *, numbers: int) -> tuple[int, int]:
    """(tokens, experts) of a program, with so many numbers a thread."""
    block = int(triton.next_power_of_2(num_experts))
    return max(1, numbers * 32 * NUM_WARPS // block), block


def forward(
    logits: Tensor,
    preference: Tensor | None,
    experts_per_token: int,
    scores: str,
    scale: float,
    is_normalised: bool,  # noqa: FBT001 (an operator's arguments go by position)
    num_groups: int,
    groups_per_token: int,
    scores_per_group: int,
) -> tuple[Tensor, Tensor, Tensor]:
    logits = logits.contiguous()
    count, num_experts = logits.shape
    if preference is not None:
        # One row for all tokens stays one row, read again and again.
        preference = preference.expand(count, num_experts)
        assert preference.stride(1) == 1
    weights, picked = (logits.new_empty((count, experts_per_token)) for _ in range(2))
    experts = logits.new_empty((count, experts_per_token), dtype=torch.int64)
    tokens, block = shape_of_launch(num_experts, numbers=FORWARD_NUMBERS)
    if count:
        forward_kernel[(cover(count, tokens),)](
            logits,
            preference,
            weights,
            experts,
            picked,
            count,
            num_experts,
            scale,
            0 if preference is None else preference.stride(0),
            K=experts_per_token,
            IS_SIGMOID=scores == "sigmoid",
            IS_NORMALISED=is_normalised,
            PREFERS=preference is not None,
            GROUPS=num_groups,
            OPEN_GROUPS=groups_per_token,
            BEST_OF_GROUP=scores_per_group,
            TOKENS=tokens,
            BLOCK=block,
            num_warps=NUM_WARPS,
        )
    return weights, experts, picked


def backward(
    picked: Tensor,
    experts: Tensor,
    gradient: Tensor,
    num_experts: int,
    scores: str,
    scale: float,
    is_normalised: bool,  # noqa: FBT001 (an operator's arguments go by position)
) -> Tensor:
    count, experts_per_token = picked.shape
    of_logits = picked.new_empty((count, num_experts))
    tokens, block = shape_of_launch(num_experts, numbers=BACKWARD_NUMBERS)
    if count:
        backward_kernel[(cover(count, tokens),)](
            picked,
            experts,
            gradient.contiguous(),
            of_logits,
            count,
            num_experts,
            scale,
            K=experts_per_token,
            IS_SIGMOID=scores == "sigmoid",
            IS_NORMALISED=is_normalised,
            PLACES=int(triton.next_power_of_2(experts_per_token)),
            TOKENS=tokens,
            BLOCK=block,
            num_warps=NUM_WARPS,
        )
    return of_logits
