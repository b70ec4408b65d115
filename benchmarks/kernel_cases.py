"""What benchmarks/kernels.py measures: the operations at the sizes of a layer of Llama 3 8B, and their peers."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.kernel_case import Case, both_ways, draw, gradient_of, liger, megatron, peer_of
from mai.kernels import (
    adamw,
    attention,
    fp8_blocks,
    heads,
    rms_norm,
    rope,
    sum_of_squares,
    swiglu,
    weight_gradient,
)
from mai.kernels.adamw_update import Update

TOKENS, HIDDEN, FEATURES = 8192, 4096, 14336
HEADS, KEY_HEADS, HEAD_SIZE = 32, 8, 128
LAYER_PARAMETERS = 218_112_000
IN_PLACE = False  # Liger's last argument: whether the backward pass writes over its input


def swiglu_cases() -> Iterator[Case]:
    both = draw(TOKENS, 2 * FEATURES)
    size = TOKENS * FEATURES * 2
    functions = {
        "mai": swiglu.fused,
        "torch": swiglu.reference,
        "torch.compile": torch.compile(swiglu.reference),
        "Megatron": megatron(
            "core.fusions.fused_bias_swiglu", lambda module: lambda x: module.bias_swiglu_impl(x, None)
        ),
        "Liger": liger("ops.swiglu", lambda its: its.LigerFusedGateUpSiLUMulFunction.apply),
    }
    yield from both_ways(
        "SwiGLU",
        functions,
        (both,),
        forward_bytes=3 * size,
        backward_bytes=5 * size,
        exact=swiglu.reference,
    )


def norm_cases() -> Iterator[Case]:
    x, residual, weight = draw(TOKENS, HIDDEN), draw(TOKENS, HIDDEN), 1 + 0.1 * draw(HIDDEN)
    size = x.nbytes

    def reference(x: Tensor, residual: Tensor, weight: Tensor) -> Any:
        return rms_norm.reference_of_sum(x, residual, weight, epsilon=1e-5)

    functions = {
        "mai": lambda *inputs: rms_norm.fused_of_sum(*inputs, epsilon=1e-5),
        "torch": reference,
        "torch.compile": torch.compile(reference),
        "Liger": liger(
            "ops.fused_add_rms_norm",
            lambda module: (
                lambda x, r, w: module.LigerFusedAddRMSNormFunction.apply(x, r, w, 1e-5, 0.0, "llama", IN_PLACE)
            ),
        ),
    }
    yield from both_ways(
        "residual + RMSNorm",
        functions,
        (x, residual, weight),
        forward_bytes=4 * size,
        backward_bytes=4 * size,
        exact=reference,
    )

    def alone(x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm.reference(x, weight, epsilon=1e-5)

    functions = {
        "mai": lambda *inputs: rms_norm.fused(*inputs, epsilon=1e-5),
        "torch": alone,
        "torch.compile": torch.compile(alone),
        "Liger": liger(
            "ops.rms_norm",
            lambda its: lambda *inputs: its.LigerRMSNormFunction.apply(*inputs, 1e-5, 0.0, "llama", IN_PLACE),
        ),
    }
    yield from both_ways(
        "RMSNorm", functions, (x, weight), forward_bytes=2 * size, backward_bytes=3 * size, exact=alone
    )


def heads_cases() -> Iterator[Case]:
    product = draw(TOKENS, 1, (HEADS + 2 * KEY_HEADS) * HEAD_SIZE)
    cos, sin = (table.cuda() for table in rope.tables(TOKENS, [1e4 ** (-i / 64) for i in range(64)]))
    options: dict[str, Any] = {"heads": HEADS, "key_heads": KEY_HEADS, "epsilon": 1e-5}

    def fused(product: Tensor, *weights: Tensor) -> Any:
        return heads.fused(product, (cos, sin), weights or None, **options)

    def reference(product: Tensor, *weights: Tensor) -> Any:
        return heads.reference(product, (cos, sin), weights or None, **options)

    # Turns queries and keys and nothing else, so the rest is torch's. The last peer: it turns gradients in place.
    turn = liger("ops.rope", lambda its: its.LigerRopeFunction.apply)

    def cut_and_turned(product: Tensor) -> Any:
        query, key, value = heads.reference(product, None, None, **options)
        query, key = turn(*(x.permute(1, 2, 0, 3) for x in (query, key)), cos[None], sin[None])
        return query.permute(2, 0, 1, 3), key.permute(2, 0, 1, 3), value

    functions = {"mai": fused, "torch": reference, "torch.compile": torch.compile(reference)}
    yield from both_ways(
        "heads, turned",
        {**functions, "Liger": cut_and_turned},
        (product,),
        forward_bytes=2 * product.nbytes,
        backward_bytes=2 * product.nbytes,
        exact=reference,
    )
    # Backward reads the queries and keys again.
    normed = product.nbytes * (HEADS + KEY_HEADS) // (HEADS + 2 * KEY_HEADS)
    yield from both_ways(
        "heads, normed and turned",
        functions,
        (product, 1 + 0.1 * draw(HEAD_SIZE), 1 + 0.1 * draw(HEAD_SIZE)),
        forward_bytes=2 * product.nbytes,
        backward_bytes=2 * product.nbytes + normed,
        exact=reference,
    )


def optimizer_cases() -> Iterator[Case]:
    weight, exp_avg, gradient = (draw(LAYER_PARAMETERS, dtype=torch.float32) for _ in range(3))
    exp_avg_sq, copy = gradient.square(), torch.empty_like(weight, dtype=torch.bfloat16)
    update = Update(
        learning_rate=1e-3, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, gradient_factor=0.5, number=10
    )

    def in_parts() -> None:
        adamw.reference(weight, exp_avg, exp_avg_sq, gradient, copy, update)

    yield Case(
        "AdamW with clipping and bf16 copy",
        30 * LAYER_PARAMETERS,
        {
            "mai": lambda: adamw.fused(weight, exp_avg, exp_avg_sq, gradient, copy, update),
            "torch fused + 2 passes": in_parts,
        },
    )
    yield Case(
        "gradient norm",
        4 * LAYER_PARAMETERS,
        {
            "mai": lambda: sum_of_squares.fused(gradient),
            "torch": lambda: torch.linalg.vector_norm(gradient, dtype=torch.float64) ** 2,
        },
        exact=lambda: sum_of_squares.reference(gradient),
    )


def product_cases() -> Iterator[Case]:
    inputs, gradient = draw(TOKENS, HIDDEN), draw(TOKENS, 2 * FEATURES)
    total = torch.zeros(2 * FEATURES, HIDDEN, device="cuda")
    yield Case(
        "weight gradient of gate and up",
        0,
        {
            "mai": lambda: weight_gradient.fused(inputs, gradient, total),
            "product, then add": lambda: weight_gradient.reference(inputs, gradient, total),
            "product alone": lambda: gradient.t() @ inputs,
        },
        flops=2 * TOKENS * HIDDEN * 2 * FEATURES,
    )


def attention_cases() -> Iterator[Case]:
    """Which of torch's backends takes our call, and how long each needs; causal, so half of the products count."""
    query = draw(TOKENS, 1, HEADS, HEAD_SIZE)
    key, value = (draw(TOKENS, 1, KEY_HEADS, HEAD_SIZE) for _ in range(2))
    backends = {"torch's choice": None, "cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}

    def attend(backend: SDPBackend | None) -> Callable[..., Tensor]:
        def call(*inputs: Tensor) -> Tensor:
            with contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
                return attention.reference(*inputs)

        return call

    flops = 2 * TOKENS * TOKENS * HEADS * HEAD_SIZE
    calls = {name: attend(backend) for name, backend in backends.items()}
    inputs = (query, key, value)
    yield Case("attention, forward", 0, {name: partial(call, *inputs) for name, call in calls.items()}, flops=flops)
    above = torch.randn_like(query)
    backward = {name: gradient_of(call, inputs, above) for name, call in calls.items()}
    yield Case("attention, backward", 0, backward, flops=flops * 5 // 2)


def fp8_cases() -> Iterator[Case]:
    """Block-wise FP8 in both layouts; torchao and torch.compile read the rows once for each."""
    x, weight = draw(TOKENS, HIDDEN), draw(FEATURES, HIDDEN)
    one_layout = torch.compile(fp8_blocks.reference_rows)
    torchao = peer_of(
        "torchao",
        "prototype.blockwise_fp8_training.kernels",
        lambda its: (
            lambda x: (
                *its.triton_fp8_blockwise_act_quant_lhs(x),
                *its.triton_fp8_blockwise_act_quant_transposed_lhs(x),
            )
        ),
    )
    yield Case(
        "FP8, 1 x 128 of rows and columns",
        # bf16 in, two payloads and a scale for 128 of each out.
        x.numel() * (2 + 2 * 1) + 2 * 4 * x.numel() // fp8_blocks.BLOCK,
        {
            "mai": lambda: fp8_blocks.quantise_rows_and_columns(x),
            "torch": lambda: fp8_blocks.reference_rows_and_columns(x),
            "torch.compile": lambda: (*one_layout(x), *one_layout(x.t())),
            "torchao": partial(torchao, x),
        },
        exact=lambda: fp8_blocks.reference_rows_and_columns(x),
    )
    blocks = torch.compile(fp8_blocks.reference_blocks)
    yield Case(
        "FP8, 128 x 128 and transposed",
        weight.numel() * (2 + 2 * 1),
        {
            "mai": lambda: fp8_blocks.quantise_blocks(weight),
            "torch": lambda: fp8_blocks.reference_blocks(weight),
            "torch.compile": lambda: blocks(weight),
        },
        exact=lambda: fp8_blocks.reference_blocks(weight),
    )


CASES = [
    swiglu_cases,
    norm_cases,
    heads_cases,
    optimizer_cases,
    product_cases,
    attention_cases,
    fp8_cases,
]
