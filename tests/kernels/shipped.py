"""Every Triton kernel in the configurations that mai ships, compiled for an H100 on a machine without one."""

import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mai.kernels.gpu import (
    adamw,
    column_sums,
    cross_entropy,
    fp8_blocks,
    heads,
    permutation,
    rms_norm,
    rope,
    routing,
    sum_of_squares,
    swiglu,
)

TARGET = GPUTarget("cuda", 90, 32)
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(frozen=True)
class Shipped:
    """A kernel with the types of its arguments and the values of its constants.

    Pointers and WHOLE numbers count as multiples of 16, as those of REAL sizes are."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    num_warps: int


@dataclass(frozen=True)
class Resources:
    """What the compiler made of it."""

    registers: int
    stack_bytes: int
    local_accesses: int
    """Loads and stores of spilled values."""
    shared_bytes: int
    loads_of_16_bytes: int
    """Into registers or shared memory."""
    stores_of_16_bytes: int
    tensor_core_instructions: int


def shipped() -> Iterator[Shipped]:
    """Every kernel in every variant, at sizes of the families and recipes: bf16 as a large model computes, and fp32
    where the optimizer does."""
    yield from _activations()
    yield from _norms()
    yield from _experts()
    yield from _heads()
    yield from _column_sums()
    yield from _cross_entropy()
    yield from _optimizer()
    yield from _fp8()


HALF, WIDE, WHOLE, REAL = "*bf16", "*fp32", "i32", "fp32"


def _activations() -> Iterator[Shipped]:
    rows = {"F": WHOLE, "BLOCKS": WHOLE}
    block = {"BLOCK": swiglu.BLOCK}
    yield Shipped(
        "swiglu",
        swiglu.forward_kernel,
        {"gate_and_up": HALF, "out": HALF, **rows},
        {"weight": None, "WEIGHTED": False, **block},
        swiglu.NUM_WARPS,
    )
    yield Shipped(
        "weighted swiglu",
        swiglu.forward_kernel,
        {"gate_and_up": HALF, "weight": WIDE, "out": HALF, **rows},
        {"WEIGHTED": True, **block},
        swiglu.NUM_WARPS,
    )
    yield Shipped(
        "swiglu backward",
        swiglu.backward_kernel,
        {"gate_and_up": HALF, "gradient": HALF, "of_both": HALF, **rows},
        block,
        swiglu.NUM_WARPS,
    )
    yield Shipped(
        "weighted swiglu backward",
        swiglu.weighted_backward_kernel,
        {"gate_and_up": HALF, "weight": WIDE, "gradient": HALF, "of_both": HALF, "of_weight": WIDE, "F": WHOLE},
        block,
        swiglu.NUM_WARPS,
    )
    strides = dict.fromkeys(("B", "H", "stride_S", "stride_B", "stride_H", "table_S", "table_B"), WHOLE)
    yield Shipped(
        "rope",
        rope.turn_kernel,
        {"x": HALF, "cos": WIDE, "sin": WIDE, "out": HALF, **strides},
        {"HALF": 64, "DIRECTION": 1, "HEADS": 32, "BLOCK": 64},
        rope.NUM_WARPS,
    )


def _norms() -> Iterator[Shipped]:
    """The longest row of each shape of a launch, and mai1_500b's."""
    for features, of_sum in itertools.product((4096, 8192, 16384, 18432), (True, False)):
        name, summed = ("norm of a sum", HALF) if of_sum else ("norm", None)
        block_size, warps = rms_norm.shape_of_launch(features)
        yield _with_or_without(
            f"{name}, {features}",
            rms_norm.forward_kernel,
            {
                **dict.fromkeys(("x", "weight", "out"), HALF),
                **dict.fromkeys(("residual", "total"), summed),
                "scale": WIDE,
                "H": WHOLE,
                "epsilon": REAL,
            },
            {"OF_SUM": of_sum, "BLOCK": block_size},
            warps,
        )
        kernel, block_size, warps, stages = rms_norm.backward_launch(features)
        yield _with_or_without(
            f"{name} backward, {features}",
            kernel,
            {
                **dict.fromkeys(("x", "weight", "gradient", "of_x"), HALF),
                "of_total": summed,
                "scale": WIDE,
                "of_weight": WIDE,
                "N": WHOLE,
                "H": WHOLE,
            },
            {"OF_SUM": of_sum, "BLOCK": block_size, "STAGES": stages},
            warps,
        )


def _with_or_without(
    name: str, kernel: Any, types: dict[str, str | None], constants: dict[str, Any], num_warps: int
) -> Shipped:
    """A type of None: the argument is None too."""
    given = {argument: kind for argument, kind in types.items() if kind is not None}
    return Shipped(name, kernel, given, {**constants, **dict.fromkeys(types.keys() - given.keys())}, num_warps)


def _experts() -> Iterator[Shipped]:
    """As many experts as the families and recipes have, and rows that come from several ranks: K = 1."""
    yield from _routing("softmax", num_experts=8, picks=2)
    yield from _routing("softmax", num_experts=128, picks=4)
    yield from _routing("softmax", num_experts=128, picks=8)
    yield from _routing("sigmoid", num_experts=128, picks=8)
    yield from _routing("sigmoid", num_experts=256, picks=8, groups=8)
    yield from _routing("softmax", num_experts=512, picks=8)
    entries = {"N": WHOLE, "BLOCKS": WHOLE}
    for bins in (32, 128, 256, 512):
        yield Shipped(
            f"expert rows, counts in {bins} bins",
            permutation.count_kernel,
            {"experts": "*i64", "counts": "*i32", "E": WHOLE, **entries},
            {"ENTRIES": permutation.ENTRIES, "EXPERTS": bins},
            permutation.ENTRY_WARPS,
        )
    yield Shipped(
        "expert rows",
        permutation.place_kernel,
        {"experts": "*i64", "counts": "*i32", "ends": "*i64", "row": "*i64", **entries},
        {"ENTRIES": permutation.ENTRIES},
        permutation.ENTRY_WARPS,
    )
    moved = {"rows": "*i64", "H": WHOLE, "BLOCKS": WHOLE}
    for picks, is_weighted in itertools.product((1, 2, 4, 8), (True, False)):
        constants = {"K": picks, "WEIGHTED": is_weighted, "BLOCK": permutation.BLOCK}
        weights = dict.fromkeys(("weights", "out_weights"), WIDE if is_weighted else None)
        yield _with_or_without(
            f"{'permute' if is_weighted else 'unpermute backward'}, K = {picks}",
            permutation.spread_kernel,
            {"tokens": HALF, "out": HALF, **weights, **moved},
            constants,
            permutation.NUM_WARPS,
        )
        yield _with_or_without(
            f"{'permute backward' if is_weighted else 'unpermute'}, K = {picks}",
            permutation.sum_kernel,
            {"x": HALF, "out": HALF, **weights, **moved},
            constants,
            permutation.NUM_WARPS,
        )


def _routing(scores: str, *, num_experts: int, picks: int, groups: int = 1) -> Iterator[Shipped]:
    """A bias for the choice where the scores are sigmoids."""
    numbers = {"T": WHOLE, "E": WHOLE, "scale": REAL}
    is_sigmoid = scores == "sigmoid"
    of = f"{picks} of {num_experts} by {scores}" + (f" in {groups} groups" if groups > 1 else "")
    tokens, block = routing.shape_of_launch(num_experts, numbers=routing.FORWARD_NUMBERS)
    constants = {"K": picks, "IS_SIGMOID": is_sigmoid, "IS_NORMALISED": True, "BLOCK": block}
    open_groups = groups // 2 or 1
    of_groups = {"GROUPS": groups, "OPEN_GROUPS": open_groups, "BEST_OF_GROUP": picks // open_groups}
    yield Shipped(
        f"routing, {of}",
        routing.forward_kernel,
        {
            **dict.fromkeys(("logits", "preference", "weights", "picked"), WIDE),
            "experts": "*i64",
            "preference_stride": WHOLE,
            **numbers,
        },
        {**constants, **of_groups, "TOKENS": tokens, "PREFERS": is_sigmoid},
        routing.NUM_WARPS,
    )
    tokens, _ = routing.shape_of_launch(num_experts, numbers=routing.BACKWARD_NUMBERS)
    yield Shipped(
        f"routing backward, {of}",
        routing.backward_kernel,
        {**dict.fromkeys(("picked", "gradient", "of_logits"), WIDE), "experts": "*i64", **numbers},
        {**constants, "TOKENS": tokens, "PLACES": picks},
        routing.NUM_WARPS,
    )


def _heads() -> Iterator[Shipped]:
    for norms in (False, True):
        # Llama 3 8B's, and Qwen3 8B's with norms.
        yield from _heads_of(32, 8, 128, norms=norms)
    # mai1_500b's on a tensor rank, gpt-oss's, and those of mai_base_1 that have no positions.
    yield from _heads_of(18, 2, 128)
    yield from _heads_of(64, 8, 64)
    yield from _heads_of(56, 8, 128, turns=False)


def _heads_of(queries: int, keys: int, size: int, *, norms: bool = False, turns: bool = True) -> Iterator[Shipped]:
    kind = f"{'normed ' if norms else ''}heads{'' if turns else ' without positions'}"
    of = f"{queries} and {keys} of {size}"
    constants = {"H": queries, "G": keys, "HALF": size // 2, "TURNS": turns, "NORMS": norms}
    all_three = ("query", "key", "value")
    shared = {
        **dict.fromkeys(("cos", "sin"), WIDE if turns else None),
        **dict.fromkeys(("query_weight", "key_weight"), HALF if norms else None),
        **dict.fromkeys(("product_S", "product_B", "table_S", "table_B", "B"), WHOLE),
        "epsilon": REAL,
    }
    heads_of_program, block = heads.shape_of_launch(queries + 2 * keys, size, pairs=heads.PAIRS)
    yield _with_or_without(
        f"{kind}, {of}",
        heads.forward_kernel,
        {**shared, "product": HALF, **dict.fromkeys(all_three, HALF)},
        {**constants, "HEADS": heads_of_program, "BLOCK": block},
        heads.NUM_WARPS,
    )
    pairs, warps = heads.PAIRS, heads.NUM_WARPS
    if norms:
        pairs, warps = heads.NORMED_BACKWARD_PAIRS, heads.NORMED_BACKWARD_WARPS
    heads_of_program, block = heads.shape_of_launch(queries + 2 * keys, size, pairs=pairs)
    yield _with_or_without(
        f"{kind} backward, {of}",
        heads.backward_kernel,
        {
            **shared,
            **dict.fromkeys([f"of_{one}" for one in all_three], HALF),
            **dict.fromkeys([f"{one}_{dim}" for one in all_three for dim in "SBH"], WHOLE),
            "product": HALF if norms else None,
            "of_product": HALF,
            "of_weights": WIDE if norms else None,
            "N": WHOLE,
        },
        {**constants, "HEADS": heads_of_program, "BLOCK": block},
        warps,
    )


def _column_sums() -> Iterator[Shipped]:
    yield Shipped(
        "column sums",
        column_sums.column_sums_kernel,
        {"x": WIDE, "out": HALF, "N": WHOLE, "M": WHOLE, "stride": WHOLE},
        {"ROWS": column_sums.ROWS, "COLUMNS": column_sums.COLUMNS},
        column_sums.NUM_WARPS,
    )


def _cross_entropy() -> Iterator[Shipped]:
    numbers = {"V": WHOLE, "stride": WHOLE, "first_entry": WHOLE}
    yield Shipped(
        "cross entropy statistics",
        cross_entropy.statistics_kernel,
        {"logits": HALF, "targets": "*i64", "out": WIDE, "T": WHOLE, **numbers},
        {"BLOCK": cross_entropy.BLOCK},
        cross_entropy.NUM_WARPS,
    )
    yield Shipped(
        "cross entropy gradient",
        cross_entropy.gradient_kernel,
        {"logits": HALF, "targets": "*i64", "log_sum": WIDE, "gradient": WIDE, **numbers, "BLOCKS": WHOLE},
        {"BLOCK": cross_entropy.BLOCK},
        cross_entropy.NUM_WARPS,
    )
    yield Shipped(
        "scale rows",
        cross_entropy.scale_rows_kernel,
        {"x": HALF, "factor": WIDE, "V": WHOLE, "stride": WHOLE},
        {"BLOCK": cross_entropy.BLOCK},
        cross_entropy.NUM_WARPS,
    )


def _optimizer() -> Iterator[Shipped]:
    reals = ("decay", "gradient_factor", "beta1", "beta2", "step_size", "root_correction", "epsilon")
    yield Shipped(
        "adamw",
        adamw.adamw_kernel,
        {
            **dict.fromkeys(("weight", "exp_avg", "exp_avg_sq", "gradient"), WIDE),
            "copy": HALF,
            "length": WHOLE,
            **dict.fromkeys(reals, REAL),
        },
        {"HAS_COPY": True, "BLOCK": adamw.BLOCK},
        adamw.NUM_WARPS,
    )
    yield Shipped(
        "sum of squares",
        sum_of_squares.sum_of_squares_kernel,
        {"x": WIDE, "out": "*fp64", "length": WHOLE},
        {"BLOCK": sum_of_squares.BLOCK},
        sum_of_squares.NUM_WARPS,
    )


def _fp8() -> Iterator[Shipped]:
    types = {
        "x": HALF,
        **dict.fromkeys(("out", "out_transposed"), "*fp8e4nv"),
        **dict.fromkeys(("scale", "scale_transposed"), WIDE),
        "R": WHOLE,
        "C": WHOLE,
    }
    yield Shipped("fp8 rows and columns", fp8_blocks.rows_and_columns_kernel, types, {}, fp8_blocks.NUM_WARPS)
    yield Shipped("fp8 blocks", fp8_blocks.blocks_kernel, types, {}, fp8_blocks.NUM_WARPS)


def resources(one: Shipped) -> Resources:
    """Compile it for sm_90a and read what came out."""
    names = one.kernel.arg_names
    signature = {name: "constexpr" if name in one.constants else one.types[name] for name in names}
    multiples = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if one.types.get(name, "").startswith(("*", "i"))
    }
    constants = {(names.index(name),): value for name, value in one.constants.items()}
    source = ASTSource(fn=one.kernel, signature=signature, constexprs=constants, attrs=multiples)
    compiled = triton.compile(source, target=TARGET, options={"num_warps": one.num_warps})
    assert ".target sm_90a" in compiled.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage, code = _read("cuobjdump", "-res-usage", cubin.name), _read("nvdisasm", cubin.name)
    return Resources(
        registers=_number(r"REG:(\d+)", usage),
        stack_bytes=_number(r"STACK:(\d+)", usage),
        local_accesses=len(re.findall(r"\b(?:LDL|STL)\b", code)),
        shared_bytes=compiled.metadata.shared,
        loads_of_16_bytes=len(re.findall(r"\bLDG(?:STS)?\.E\S*\.128\b", code)),
        stores_of_16_bytes=len(re.findall(r"\bSTG\.E\S*\.128\b", code)),
        tensor_core_instructions=len(re.findall(r"\bHGMMA\b", code)),
    )


def _read(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, f"{pattern} is not in: {text}"
    return int(found[1])


def table() -> dict[str, dict[str, int]]:
    """Name of each shipped kernel -> what the compiler made of it."""
    return {one.name: asdict(resources(one)) for one in shipped()}
