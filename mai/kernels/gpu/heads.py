"""`mai/kernels/heads.py` in Triton.

Shapes: N positions of all sequences, H query heads, G key and value heads, D head size. A program takes several heads
of one position of one sequence, as they lie in the product; backward with norms it goes on to further positions, so
that its share of the weights' gradients stays in registers. `query_S` is a stride: that of S in the queries.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mai.kernels.gpu.column_sums import column_sums
from mai.kernels.gpu.launch import cover, num_multiprocessors, table_strides, with_whole_rows

# Pairs of a program and its warps, the fastest of twelve on an H100 with 32 query and 8 key heads of 128. With more
# threads than a head has pairs the compiler loads cos and sin where they are needed; with fewer it hands them around
# through shared memory, behind a barrier.
PAIRS, NUM_WARPS = 4096, 4
# Backward with norms, which needs most registers: the fastest of forty.
NORMED_BACKWARD_PAIRS, NORMED_BACKWARD_WARPS = 1024, 4
PROGRAMS_PER_MULTIPROCESSOR = 4


@triton.jit
def forward_kernel(
    product,
    cos,
    sin,
    query_weight,
    key_weight,
    query,
    key,
    value,
    B,
    product_S,
    product_B,
    table_S,
    table_B,
    epsilon,
    H: tl.constexpr,
    G: tl.constexpr,
    HALF: tl.constexpr,
    TURNS: tl.constexpr,
    NORMS: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    position, sequence = (row // B).to(tl.int64), (row % B).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, BLOCK)[None, :]
    inside = (head < H + 2 * G)[:, None] & (pair < HALF)
    source = product + position * product_S + sequence * product_B + head[:, None] * 2 * HALF + pair
    first, second = _load_halves(source, inside, HALF)
    left, right = first, second
    if NORMS:
        left, right, _ = _normal(first, second, epsilon, HALF)
        left_weight, right_weight = _load_weights(query_weight, key_weight, head, pair, H, G, HALF)
        left, right = left * left_weight, right * right_weight
    if TURNS:
        cosine, sine = _load_angles(cos, sin, position * table_S + sequence * table_B, pair, HALF)
        left, right = left * cosine - right * sine, right * cosine + left * sine
    place, group = head % (H // G + 2), head // (H // G + 2)
    of_query = query + row.to(tl.int64) * H * 2 * HALF
    of_key_or_value = tl.where(place == H // G, key, value) + (row.to(tl.int64) * G + group) * 2 * HALF
    target = tl.where(place < H // G, of_query + (group * (H // G) + place) * 2 * HALF, of_key_or_value)[:, None] + pair
    is_value = (place > H // G)[:, None]
    _store_halves(target, inside, tl.where(is_value, first, left), tl.where(is_value, second, right), HALF)


@triton.jit
def backward_kernel(
    of_query,
    of_key,
    of_value,
    cos,
    sin,
    product,
    query_weight,
    key_weight,
    of_product,
    of_weights,
    N,
    B,
    query_S,
    query_B,
    query_H,
    key_S,
    key_B,
    key_H,
    value_S,
    value_B,
    value_H,
    product_S,
    product_B,
    table_S,
    table_B,
    epsilon,
    H: tl.constexpr,
    G: tl.constexpr,
    HALF: tl.constexpr,
    TURNS: tl.constexpr,
    NORMS: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, BLOCK)[None, :]
    inside = (head < H + 2 * G)[:, None] & (pair < HALF)
    place, group = head % (H // G + 2), (head // (H // G + 2)).to(tl.int64)
    is_query, is_key, is_value = place < H // G, place == H // G, (place > H // G)[:, None]
    query = of_query + (group * (H // G) + place) * query_H
    above = tl.where(is_query, query, tl.where(is_key, of_key + group * key_H, of_value + group * value_H))
    above_S = tl.where(is_query, query_S, tl.where(is_key, key_S, value_S))
    above_B = tl.where(is_query, query_B, tl.where(is_key, key_B, value_B))
    part_left = tl.zeros((HEADS, BLOCK), dtype=tl.float32)
    part_right = tl.zeros((HEADS, BLOCK), dtype=tl.float32)
    for row in tl.range(tl.program_id(0), N, tl.num_programs(0)):
        position, sequence = (row // B).to(tl.int64), (row % B).to(tl.int64)
        start_of_each = above + position * above_S + sequence * above_B
        first, second = _load_halves(start_of_each[:, None] + pair, inside, HALF)
        left, right = first, second
        if TURNS:
            # The other way round: a turn's transpose is the turn by the negative angle.
            cosine, sine = _load_angles(cos, sin, position * table_S + sequence * table_B, pair, HALF)
            left, right = left * cosine + right * sine, right * cosine - left * sine
        if NORMS:
            source = product + position * product_S + sequence * product_B + head[:, None] * 2 * HALF + pair
            left_source, right_source = _load_halves(source, inside, HALF)
            left_normal, right_normal, scale = _normal(left_source, right_source, epsilon, HALF)
            part_left += left * left_normal
            part_right += right * right_normal
            # From L1 each time: kept in registers, they would leave room for fewer programs.
            left_weight, right_weight = _load_weights(query_weight, key_weight, head, pair, H, G, HALF)
            left, right = left * left_weight, right * right_weight
            left, right = _before_norm(left, right, left_normal, right_normal, scale, HALF)
        target = of_product + tl.cast(row, tl.int64) * (H + 2 * G) * 2 * HALF + head[:, None] * 2 * HALF + pair
        _store_halves(target, inside, tl.where(is_value, first, left), tl.where(is_value, second, right), HALF)
    if NORMS:
        program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        parts = of_weights + program * 4 * HALF + tl.arange(0, BLOCK)
        _store_sums(parts, is_query, part_left, part_right, HALF, BLOCK)
        _store_sums(parts + 2 * HALF, is_key, part_left, part_right, HALF, BLOCK)


@triton.jit
def _load_halves(start, inside, HALF: tl.constexpr):
    first = tl.load(start, mask=inside, other=0).to(tl.float32)
    return first, tl.load(start + HALF, mask=inside, other=0).to(tl.float32)


@triton.jit
def _store_halves(start, inside, first, second, HALF: tl.constexpr):
    tl.store(start, first.to(start.dtype.element_ty), mask=inside)
    tl.store(start + HALF, second.to(start.dtype.element_ty), mask=inside)


@triton.jit
def _load_angles(cos, sin, row_of_table, pair, HALF: tl.constexpr):
    angle = row_of_table + pair
    return tl.load(cos + angle, mask=pair < HALF, other=0), tl.load(sin + angle, mask=pair < HALF, other=0)


@triton.jit
def _load_weights(query_weight, key_weight, head, pair, H: tl.constexpr, G: tl.constexpr, HALF: tl.constexpr):
    weight = tl.where(head % (H // G + 2) < H // G, query_weight, key_weight)[:, None] + pair
    left = tl.load(weight, mask=pair < HALF, other=0).to(tl.float32)
    return left, tl.load(weight + HALF, mask=pair < HALF, other=0).to(tl.float32)


@triton.jit
def _normal(first, second, epsilon, HALF: tl.constexpr):
    scale = tl.rsqrt(_mean(first * first + second * second, HALF) + epsilon)
    return first * scale, second * scale, scale


@triton.jit
def _before_norm(left, right, left_normal, right_normal, scale, HALF: tl.constexpr):
    """The gradient of what `_normal` got, of that of what it gave."""
    mean = _mean(left * left_normal + right * right_normal, HALF)
    return scale * (left - left_normal * mean), scale * (right - right_normal * mean)


@triton.jit
def _mean(sum_of_halves, HALF: tl.constexpr):
    return (tl.sum(sum_of_halves, axis=1) / (2 * HALF))[:, None]


@triton.jit
def _store_sums(start, is_of_this_kind, left, right, HALF: tl.constexpr, BLOCK: tl.constexpr):
    inside = tl.arange(0, BLOCK) < HALF
    tl.store(start, tl.sum(tl.where(is_of_this_kind[:, None], left, 0), axis=0), mask=inside)
    tl.store(start + HALF, tl.sum(tl.where(is_of_this_kind[:, None], right, 0), axis=0), mask=inside)


def shape_of_launch(all_heads: int, size: int, *, pairs: int) -> tuple[int, int]:
    """(heads of a program, pairs of a head), powers of two."""
    block = int(triton.next_power_of_2(size // 2))
    return int(min(triton.next_power_of_2(all_heads), max(1, pairs // block))), block


def forward(
    product: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    query_weight: Tensor | None,
    key_weight: Tensor | None,
    heads: int,
    key_heads: int,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    product = with_whole_rows(product)
    *outer, features = product.shape
    size = features // (heads + 2 * key_heads)
    query, key, value = (product.new_empty((*outer, count, size)) for count in (heads, key_heads, key_heads))
    heads_of_program, block = shape_of_launch(heads + 2 * key_heads, size, pairs=PAIRS)
    if product.numel():
        forward_kernel[(outer[0] * outer[1], cover(heads + 2 * key_heads, heads_of_program))](
            product,
            cos,
            sin,
            query_weight,
            key_weight,
            query,
            key,
            value,
            outer[1],
            *product.stride()[:2],
            *table_strides(cos),
            epsilon,
            H=heads,
            G=key_heads,
            HALF=size // 2,
            TURNS=cos is not None,
            NORMS=query_weight is not None,
            HEADS=heads_of_program,
            BLOCK=block,
            num_warps=NUM_WARPS,
        )
    return query, key, value


def backward(of_query: Tensor, of_key: Tensor, of_value: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    return _backward(of_query, of_key, of_value, cos, sin, None, None, None, 0.0)[0]


def normed_backward(
    of_query: Tensor,
    of_key: Tensor,
    of_value: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    product: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    of_product, parts = _backward(of_query, of_key, of_value, cos, sin, product, query_weight, key_weight, epsilon)
    assert parts is not None
    of_query_weight, of_key_weight = (column_sums(of_one, query_weight.dtype) for of_one in parts.unbind(dim=1))
    return of_product, of_query_weight, of_key_weight


def _backward(
    of_query: Tensor,
    of_key: Tensor,
    of_value: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    product: Tensor | None,
    query_weight: Tensor | None,
    key_weight: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor | None]:
    """The gradient of the product, and with norms each program's part of the weights' gradients, [programs, 2, D]."""
    of_query, of_key, of_value = (with_whole_rows(x) for x in (of_query, of_key, of_value))
    product = None if product is None else with_whole_rows(product)
    *outer, heads, size = of_query.shape
    positions, all_heads = outer[0] * outer[1], heads + 2 * of_key.size(2)
    of_product = of_query.new_empty((*outer, all_heads * size))
    pairs, warps = (PAIRS, NUM_WARPS) if product is None else (NORMED_BACKWARD_PAIRS, NORMED_BACKWARD_WARPS)
    heads_of_program, block = shape_of_launch(all_heads, size, pairs=pairs)
    blocks, rows, parts = cover(all_heads, heads_of_program), positions, None
    if product is not None:
        rows = min(rows, cover(PROGRAMS_PER_MULTIPROCESSOR * num_multiprocessors(product.device), blocks))
        parts = product.new_empty((rows * blocks, 2, size), dtype=torch.float32)
    if of_product.numel():
        backward_kernel[(rows, blocks)](
            of_query,
            of_key,
            of_value,
            cos,
            sin,
            product,
            query_weight,
            key_weight,
            of_product,
            parts,
            positions,
            outer[1],
            *of_query.stride()[:3],
            *of_key.stride()[:3],
            *of_value.stride()[:3],
            *((0, 0) if product is None else product.stride()[:2]),
            *table_strides(cos),
            epsilon,
            H=heads,
            G=of_key.size(2),
            HALF=size // 2,
            TURNS=cos is not None,
            NORMS=product is not None,
            HEADS=heads_of_program,
            BLOCK=block,
            num_warps=warps,
        )
    return of_product, parts
