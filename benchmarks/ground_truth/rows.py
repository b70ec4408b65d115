"""The rows of the ground truth, and each as a Setting: what its source says, and what its model is known to be.

A row that says too little gives a reason instead of a Setting. What the CSV leaves empty and the model's own paper says
stands in `_SHAPES`.
"""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mai.model.families import deepseek_v3
from mai.model.shapes import Split
from mai.plan.architecture import Architecture, Attention, Experts, Layer, Network, Product, gated_network, of_model
from mai.plan.hardware import Cluster, load_cluster, load_gpu
from mai.plan.setting import Precision, Setting
from mai.plan.software import load_software
from mai.recipe import ParallelConfig
from mai.recipe.stage_text import as_text

HERE = Path(__file__).parent

Row = dict[str, str]


class UnusableError(Exception):
    """Why a row cannot be predicted."""


def read(file: Path = HERE / "measured.csv") -> Iterator[Row]:
    with file.open(newline="", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def number(row: Row, name: str, default: int | None = None) -> int:
    text = row.get(name, "")
    if text == "":
        if default is None:
            raise UnusableError(f"{name} is not printed")
        return default
    return int(float(text))


_CLUSTERS = {
    "A100": "a100",
    "A100-80GB": "a100",
    "A100-40GB": "a100",
    "A800-80GB": "a100",
    "H100": "h100",
    "H200": "h200",
    "B200": "b200",
    "B300": "b200",
    "GB200": "gb200_nvl72",
    "GB300": "gb300_nvl72",
    "MI300X": "mi300x",
}

_UNGATED = ("GPT", "MPT", "BLOOM", "MT-NLG", "Nemotron4", "Megatron CI gpt3")
_SOFTWARE = {
    "NVIDIA dgxc-benchmarking recipes": "megatron_2024",
    "NVIDIA NeMo long-sequence performance": "megatron_2024",
    "vTrain validation set (KAIST)": "megatron_2022",
    "Korthikanti et al. 2022 (arXiv 2205.05198)": "megatron_2022",
    "MT-NLG 530B (arXiv 2201.11990)": "megatron_2022",
    "BLOOM-176B (BigScience)": "megatron_2022",
    "InternEvo": "megatron_2022",
    "HF nanotron ultra-scale playbook sweep": "nanotron",
    "MosaicML llm-foundry benchmarking": "fsdp_2023",
}


def is_gated(row: Row) -> bool:
    return not row["model"].startswith(_UNGATED)


def architecture_of(row: Row) -> Architecture:
    model = row["model"]
    if "DeepSeek" in model or "deepseek" in model:
        return _deepseek(row)
    if "Nemotron_3" in model or "LoRA" in row["notes"] or "LoRA" in model:
        raise UnusableError("no transformer that the planner knows")
    hidden, heads, layers = number(row, "hidden"), number(row, "heads"), number(row, "layers")
    if "InternLM-7B" in model:
        row = {**row, "ffn": "11008", "vocab": "103168"}
    key_heads = number(row, "kv_heads", heads)
    if "nemotron4-15b" in model.lower():
        key_heads = 8
    size = hidden // heads
    if "Qwen3" in model:
        size, key_heads = 128, 4
    vocabulary = number(row, "vocab", {"N": 256000}.get(model[0], 51200))
    ffn = number(row, "ffn", 4 * hidden)
    has_bias = not is_gated(row)
    rows = (heads + 2 * key_heads) * size
    attention = Attention(
        heads=heads,
        key_heads=key_heads,
        key_size=size,
        value_size=size,
        products=(
            Product("linear_qkv", hidden, rows, Split.ROWS, has_bias=has_bias),
            Product("linear_proj", heads * size, hidden, Split.COLUMNS, has_bias=has_bias),
        ),
    )
    gated = is_gated(row)
    network = gated_network(hidden, ffn, has_bias=False) if gated else plain_network(hidden, ffn)
    layer = Layer(attention, network)
    if number(row, "experts", 0):
        width = number(row, "moe_ffn", ffn)
        experts = Experts(
            number=number(row, "experts"),
            per_token=number(row, "topk"),
            network=gated_network(hidden, width, has_bias=False),
            router=Product("router", hidden, number(row, "experts"), Split.NONE),
        )
        layer = Layer(attention, experts)
    tied = row["source"].startswith("HF nanotron") and row["params_b"] == "1.34"
    return Architecture(
        hidden=hidden, vocabulary=vocabulary, layers=(layer,) * layers, is_tied=tied, norms_have_bias=not gated
    )


def plain_network(inputs: int, width: int) -> Network:
    products = (
        Product("linear_fc1", inputs, width, Split.ROWS, has_bias=True),
        Product("linear_fc2", width, inputs, Split.COLUMNS, has_bias=True),
    )
    return Network(width, is_gated=False, products=products)


def _deepseek(row: Row) -> Architecture:
    model = deepseek_v3.SIZES["671b_a37b"]
    assert model.experts is not None
    depths = 0 if "w/o MTP" in row["notes"] or "deepseekv2" in row["model"] or "AutoModel" in row["source"] else 1
    experts = replace(
        model.experts,
        num_experts=number(row, "experts"),
        experts_per_token=number(row, "topk"),
        num_groups=1,
        groups_per_token=1,
    )
    layers = number(row, "layers")
    if "deepseekv2" in row["model"]:
        experts = replace(experts, ffn_hidden_size=1536, shared_ffn_hidden_size=2 * 1536, num_dense_layers=1)
    return of_model(
        replace(
            model,
            num_layers=layers,
            hidden_size=number(row, "hidden"),
            ffn_hidden_size=number(row, "ffn"),
            vocab_size=number(row, "vocab"),
            multi_token_depths=depths,
            feed_forward=experts,
        )
    )


def parallel_of(row: Row, num_layers: int, depths: int) -> ParallelConfig:
    tensor, pipeline = number(row, "tp", 1), number(row, "pp", 1)
    context, virtual = number(row, "cp", 1), number(row, "vpp", 1)
    gpus = number(row, "gpus")
    data, left = divmod(gpus, tensor * pipeline * context)
    if left or not data:
        raise UnusableError(f"{gpus} GPUs are no multiple of the layout")
    if pipeline == 1:
        virtual = 1
    parts = pipeline * virtual
    stages = _stages(num_layers, depths, parts)
    zero = number(row, "zero", 1)
    expert = number(row, "ep", 1)
    if tensor * context * data % (expert * number(row, "etp", 1)):
        raise UnusableError("more expert ranks than a stage has")
    return ParallelConfig(
        tensor=tensor,
        sequence=tensor > 1 and row["sp"] != "0",
        context=context,
        pipeline=pipeline,
        virtual_stages=virtual,
        stages=stages,
        expert=expert,
        expert_tensor=number(row, "etp", 1),
        data=data,
        sharding="full" if zero == 3 else "optimizer",
        sharding_ranks=1 if zero == 0 else None,
        recompute=_recompute(row),
        micro_batch_sequences=number(row, "micro_batch", 1),
    )


def _stages(num_layers: int, depths: int, parts: int) -> str:
    """Even where it divides; else the loss, and each further depth, counts as a layer."""
    if num_layers % parts == 0 and not depths:
        return "even"
    behind = depths + 1
    each, more = divmod(num_layers + behind, parts)
    sizes = [each + (part < more) for part in range(parts)]
    sizes[-1] -= behind
    if sizes[-1] < 0:
        sizes = [each + (part < more) for part in range(parts)]
        surplus, sizes[-1] = behind - sizes[-1], 0
        sizes[-2] -= surplus
    if min(sizes) < 0:
        raise UnusableError("more parts than layers")
    return as_text(sizes)


def _recompute(row: Row) -> tuple[Any, ...]:
    if row["recompute"].startswith("full"):
        return ("layer",)
    if row["recompute"] == "selective":
        return ("attention_core",)
    return ()


def precision_of(row: Row) -> Precision:
    text = row["precision"].lower()
    if "fp4" in text:
        return "fp4"
    if "fp8" in text:
        return "fp8"
    return "bf16"


def software_name(row: Row) -> str:
    if row["notes"].startswith(("MaxText", "Paxml")):
        return "maxtext"
    if row["source"].startswith("NVIDIA Megatron-Bridge"):
        container = row["table_or_path"].split("container")[0].split()[-1]
        if container >= "26.06":
            return "bridge_2026_06"
        return "bridge_2026" if container >= "26" else "bridge_2025"
    return _SOFTWARE.get(row["source"], "megatron_2025")


def cluster_of(row: Row) -> Cluster:
    hardware = row["hardware"]
    if hardware not in _CLUSTERS:
        raise UnusableError(f"no cluster of {hardware}")
    cluster = load_cluster(_CLUSTERS[hardware])
    if hardware == "A100-40GB":
        return replace(cluster, gpu=load_gpu("a100_40gb"))
    if row["source"].startswith("vTrain"):
        # Its configurations say 800 Gb/s a node: config/validation/multi of VIA-Research/vTrain.
        return replace(cluster, scale_out=replace(cluster.scale_out, gb_per_second=12.5))
    if row["source"].startswith("HF nanotron"):
        scale_out = replace(cluster.scale_out, gb_per_second=15.0, latency_microseconds=50.0)
        return replace(cluster, scale_out=scale_out)
    if hardware == "B300":
        return replace(cluster, gpu=load_gpu("b300"))
    return cluster


def global_batch(row: Row) -> int:
    if row["source"] == "InternEvo" and not row["global_batch"]:
        times = 4 if "accumulation 4" in row["notes"] or "4 micro" in row["notes"] else 1
        return number(row, "dp") * number(row, "micro_batch") * times
    return number(row, "global_batch")


def setting_of(row: Row) -> Setting:
    """Raises UnusableError."""
    architecture = architecture_of(row)
    parallel = parallel_of(row, len(architecture.layers), architecture.depths)
    assert parallel.data is not None
    sequences = global_batch(row)
    micro, left = divmod(sequences, parallel.data * parallel.micro_batch_sequences)
    if left or not micro:
        raise UnusableError(f"a batch of {sequences} is no multiple of the layout's")
    return Setting(
        architecture=architecture,
        parallel=parallel,
        sequence_length=number(row, "seq"),
        num_micro_batches=micro,
        precision=precision_of(row),
        software=load_software(software_name(row)),
        cluster=cluster_of(row),
    )


def measured_seconds(row: Row) -> float:
    if row["step_s"]:
        return float(row["step_s"])
    if row["tokens_per_s_per_gpu"]:
        tokens = global_batch(row) * number(row, "seq")
        return tokens / (float(row["tokens_per_s_per_gpu"]) * number(row, "gpus"))
    if row["tflops_per_gpu"] and "full (non-causal)" in row["notes"] and row["tp"]:
        tokens = global_batch(row) * number(row, "seq")
        return tokens * full_attention_flops(row) / (float(row["tflops_per_gpu"]) * 1e12 * number(row, "gpus"))
    raise UnusableError("no time is printed")


def full_attention_flops(row: Row) -> float:
    a = architecture_of(row)
    per_layer = sum(product.num_parameters for product in a.layers[0].products())
    attention = a.layers[0].attention
    weights = len(a.layers) * per_layer + a.output.num_parameters
    return 6.0 * weights + 6.0 * len(a.layers) * number(row, "seq") * attention.heads * (
        attention.key_size + attention.value_size
    )
