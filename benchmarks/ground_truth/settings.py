"""A row of the ground truth as a Setting: its layout, its software and its cluster."""

from dataclasses import replace
from typing import Any

from benchmarks.ground_truth.models import architecture_of
from benchmarks.ground_truth.rows import Row, UnusableError, batch_sequences, number
from mai.hardware.cluster import Cluster, load_cluster
from mai.hardware.gpu import load_gpu
from mai.plan.memory.memory import memory
from mai.plan.setting.setting import Precision, Setting
from mai.plan.software import Software, load_software
from mai.recipe import ParallelConfig
from mai.recipe.stage_text import as_text

_CLUSTERS = {
    "A100": "a100",
    "A100-40GB": "a100",
    "A100-80GB": "a100",
    "A800-80GB": "a100",
    "B200": "b200",
    "B300": "b200",
    "GB200": "gb200_nvl72",
    "GB300": "gb300_nvl72",
    "H100": "h100",
    "H200": "h200",
    "MI300X": "mi300x",
    "MI355X": "mi355x",
}
_GPUS = {"A100-40GB": "a100_40gb", "B300": "b300"}
"""Where it is not the cluster's own."""

_NETWORKS = {
    # inter_node_bandwidth of its configurations (VIA-Research/vTrain, config): 800 Gb/s a node.
    "vTrain validation set (KAIST)": (12.5, None),
    # The playbook's own measurements of 256 MB: an all-reduce takes 0.2 to 0.45 ms longer for each further node.
    "HF nanotron ultra-scale playbook sweep": (50.0, 125.0),
}
"""Between nodes, where the source's differs: GB/s a GPU, and microseconds a hop."""

_SOFTWARE = {
    "NVIDIA dgxc-benchmarking": "megatron_2024",
    "NVIDIA NeMo AutoModel": "fsdp_2025",
    "NVIDIA NeMo": "megatron_2024",
    "MLPerf": "megatron_2024",
    "Megatron-LM README": "megatron_2024",
    "MegaScale": "megatron_2024",
    "torchtitan": "fsdp_2025",
    "vTrain": "megatron_2022",
    "Korthikanti": "megatron_2022",
    "MT-NLG": "megatron_2022",
    "BLOOM": "megatron_2022",
    "InternEvo": "megatron_2022",
    "HF nanotron": "nanotron",
    "MosaicML": "fsdp_2023",
}
"""By how the source's name begins; those of MLPerf, torchtitan, MegaScale and Megatron-LM's README are for `--rows`."""
_NEWEST_MEGATRON = "megatron_2025"


def setting_of(row: Row) -> Setting:
    """Raises UnusableError where the row says too little, or contradicts itself."""
    architecture = architecture_of(row)
    parallel = _parallel(row, len(architecture.layers), architecture.depths)
    assert parallel.data is not None
    sequences = batch_sequences(row)
    num_micro_batches, left = divmod(sequences, parallel.data * parallel.micro_batch_sequences)
    if left or not num_micro_batches:
        raise UnusableError(f"a batch of {sequences} is no multiple of the layout's")
    setting = Setting(
        architecture=architecture,
        parallel=parallel,
        sequence_length=number(row, "seq"),
        num_micro_batches=num_micro_batches,
        precision=_precision(row),
        software=_software(row),
        cluster=_cluster(row),
    )
    return setting if row["recompute"] else _with_recompute(setting)


def _software(row: Row) -> Software:
    software = load_software(software_name(row))
    if "token-drop" not in row["notes"]:
        return software
    # Experts of a fixed capacity: the host need not know how many tokens each got, and runs ahead as with dense layers.
    pace = replace(software.pace, host_expert_layer_microseconds=2 * software.pace.host_layer_microseconds)
    return replace(software, pace=pace)


def software_name(row: Row) -> str:
    """Of Megatron-Bridge by the container's version."""
    if row["notes"].startswith(("MaxText", "Paxml")):
        return "maxtext"
    if row["source"] == "NVIDIA Megatron-Bridge performance summary":
        container = row["table_or_path"].split(" container")[0].split()[-1]
        if container >= "26.06":
            return "bridge_2026_06"
        return "bridge_2026" if container >= "26" else "bridge_2025"
    beginning = next((name for name in _SOFTWARE if row["source"].startswith(name)), None)
    return _SOFTWARE[beginning] if beginning else _NEWEST_MEGATRON


def _with_recompute(setting: Setting) -> Setting:
    """Whole layers, where the row does not say and what would be kept is more than twice what the GPU has: no error of
    the planner explains that."""
    needs = memory(setting)
    if needs.usable_bytes is None or needs.largest.needed_bytes < 2 * needs.usable_bytes:
        return setting
    return replace(setting, parallel=replace(setting.parallel, recompute=("layer",)))


def _parallel(row: Row, num_layers: int, depths: int) -> ParallelConfig:
    tensor, context, pipeline = number(row, "tp", 1), number(row, "cp", 1), number(row, "pp", 1)
    expert, expert_tensor, zero = number(row, "ep", 1), number(row, "etp", 1), number(row, "zero", 1)
    data, left = divmod(number(row, "gpus"), tensor * pipeline * context)
    if left or not data:
        raise UnusableError(f"{row['gpus']} GPUs are no multiple of the layout")
    if tensor * context * data % (expert * expert_tensor):
        raise UnusableError("more expert ranks than a stage has")
    virtual_stages = number(row, "vpp", 1) if pipeline > 1 else 1
    return ParallelConfig(
        tensor=tensor,
        sequence=tensor > 1 and row["sp"] != "0",
        context=context,
        pipeline=pipeline,
        virtual_stages=virtual_stages,
        stages=_stages(num_layers, depths, pipeline * virtual_stages),
        expert=expert,
        expert_tensor=expert_tensor,
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
    each, more = divmod(num_layers + depths + 1, parts)
    sizes = [each + (part < more) for part in range(parts)]
    behind = depths + 1
    for part in reversed(range(parts)):
        taken = min(sizes[part], behind)
        sizes[part] -= taken
        behind -= taken
    return as_text(sizes)


def _recompute(row: Row) -> tuple[Any, ...]:
    if row["recompute"].startswith("full"):
        return ("layer",)
    return ("attention_core",) if row["recompute"] == "selective" else ()


def _precision(row: Row) -> Precision:
    text = row["precision"].lower()
    if "fp4" in text:
        return "fp4"
    return "fp8" if "fp8" in text else "bf16"


def _cluster(row: Row) -> Cluster:
    hardware = row["hardware"]
    if hardware not in _CLUSTERS:
        raise UnusableError(f"no cluster of {hardware}")
    cluster = load_cluster(_CLUSTERS[hardware])
    if hardware in _GPUS:
        cluster = replace(cluster, gpu=load_gpu(_GPUS[hardware]))
    if row["source"] in _NETWORKS:
        rate, latency = _NETWORKS[row["source"]]
        latency = latency or cluster.scale_out.latency_microseconds
        scale_out = replace(cluster.scale_out, gb_per_second=rate, latency_microseconds=latency)
        cluster = replace(cluster, scale_out=scale_out)
    return cluster
