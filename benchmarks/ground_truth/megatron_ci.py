"""Rows of Megatron-LM's CI as Settings: what their notes say of the model, and what their test's own files say beside.

The memory is that of the last rank, at its largest over a whole run. Where a release test's golden values do not say
how many GPUs ran it, the number here is the one whose shared-out optimizer makes up what stays between steps.
"""

from dataclasses import replace
from typing import Any

from benchmarks.ground_truth.models import plain_network
from benchmarks.ground_truth.rows import Row, UnusableError, number
from benchmarks.ground_truth.settings import setting_of
from mai.plan.model.architecture import Architecture, Layer, Network, gated_network
from mai.plan.setting.setting import Setting
from mai.plan.software import Software, load_software

# megatron/training/tokenizer: GPT-2's byte pairs; nemotron_2_256k.model; Llama 2's. Padded below.
_GPT2, _NEMOTRON, _LLAMA = 50257, 256_000, 32_000

_RELEASES: dict[str, dict[str, Any]] = {
    "gpt3_15b_8t_release": {"gpus": 256, "vocab": _NEMOTRON, "global_batch": 1152},
    "deepseekv3_proxy_flex_tp1pp4emp16etp1cp1_release": {
        "gpus": 64,
        "vocab": _NEMOTRON,
        "vpp": 2,
        "stages": "Et*2|(tt|)*5t|tL",
    },
    "deepseekv3_proxy_flex_tp2pp2emp16etp1cp1_gb_200_release": {"gpus": 32, "vocab": _NEMOTRON, "stages": "Et*7|t*7L"},
    "mixtral_8x7b_alltoall_tp2pp4ep4_release": {"gpus": 128, "vocab": _NEMOTRON},
    "mixtral_8x7b_alltoall_tp2pp4ep4_release_sm": {"gpus": 128, "vocab": _NEMOTRON},
    "mixtral_8x7b_tp1pp4ep8vpp8_release": {"gpus": 64, "vocab": _LLAMA},
}
"""By test: model_config.yaml beside its golden values says the tokenizer and the stages."""

_VOCABULARY_MULTIPLE = {"deepseekv3": 3232}
"""make-vocab-size-divisible-by, where it is not 128."""


def is_tiny(row: Row) -> bool:
    return "TINY" in row["notes"]


def ci_setting_of(row: Row) -> Setting:
    """Raises UnusableError."""
    test = row["model"].split()[-1]
    if "check_grads" in test:
        raise UnusableError("it runs one step, whose activations are gone before the optimizer's moments come")
    if not is_tiny(row) and test not in _RELEASES:
        raise UnusableError(f"{test} is no transformer that the planner knows")
    if "FSDP" in row["notes"] or "offloading" in row["notes"] or "cuda-graph" in row["notes"]:
        raise UnusableError("Megatron-FSDP, offloading and CUDA graphs are not planned")
    facts = _RELEASES.get(test, {})
    own = {name: str(value) for name, value in facts.items() if name != "stages"}
    # What a test does not say: experts cut as the rest is, and no distributed optimizer.
    unsaid = {"etp": row["tp"], "zero": "0", "ffn": _ffn(row)}
    setting = setting_of({**row, **{name: row[name] or value for name, value in unsaid.items()}, **own})
    multiple = next((size for name, size in _VOCABULARY_MULTIPLE.items() if test.startswith(name)), 128)
    entries = int(own.get("vocab", _GPT2))
    parallel = setting.parallel
    return replace(
        setting,
        architecture=_architecture(setting.architecture, row, _padded(entries, multiple * parallel.tensor)),
        parallel=replace(parallel, stages=facts.get("stages", parallel.stages)),
        software=_software(row),
    )


def _ffn(row: Row) -> str:
    """Without a number of its own: four hidden sizes, of a gated network two thirds of that in whole 64s."""
    hidden = number(row, "hidden")
    return str(int(4 * hidden * 2 / 3) // 64 * 64 if "swiglu=True" in row["notes"] else 4 * hidden)


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _architecture(model: Architecture, row: Row, vocabulary: int) -> Architecture:
    """As models.py reads it, with what the notes say of norms, biases, positions and further depths."""
    notes = row["notes"]
    is_plain = "swiglu=True" not in notes and "multi-latent" not in notes
    depths = next((int(note.split("=")[1]) for note in notes.split("; ") if note.startswith("mtp-num-layers")), 0)
    has_positions = "position-embedding-type" not in notes and "multi-latent" not in notes
    layers = model.layers
    if "multi-latent" not in notes:
        layers = tuple(_layer(model.hidden, layer, row) for layer in layers)
    return replace(
        model,
        vocabulary=vocabulary,
        layers=layers,
        is_tied="untie-embeddings" not in notes,
        norms_have_bias=is_plain and "RMSNorm" not in notes,
        num_positions=number(row, "seq") if has_positions else 0,
        depths=depths,
    )


def _layer(hidden: int, layer: Layer, row: Row) -> Layer:
    experts, is_gated = layer.experts, "swiglu=True" in row["notes"]
    if experts is None:
        width = number(row, "ffn", int(_ffn(row)))
        return replace(layer, feed_forward=_network(hidden, width, is_gated=is_gated))
    network = _network(hidden, experts.network.width, is_gated=is_gated)
    return replace(layer, feed_forward=replace(experts, network=network))


def _network(hidden: int, width: int, *, is_gated: bool) -> Network:
    return gated_network(hidden, width, has_bias=False) if is_gated else plain_network(hidden, width)


def _software(row: Row) -> Software:
    notes = row["notes"]
    software = load_software("megatron_2025")
    if "cross-entropy-loss-fusion=True" in notes and not is_tiny(row):
        # Release tests' golden values were written while their loss was Transformer Engine's.
        return with_fused_loss(software)
    if is_tiny(row):
        # no-gradient-accumulation-fusion, in all of them.
        software = replace(software, holds=replace(software.holds, stand_ins=False, stand_ins_stay=False))
        # Dropout is 0.1 where nothing else is said; without Transformer Engine there is no fused attention either.
        has_scores = "attention-backend=unfused" in notes or "transformer-impl=local" in notes
        keeps = replace(software.keeps, dropout_masks=True, attention_scores=has_scores)
        software = replace(software, keeps=keeps)
    return software


def with_fused_loss(software: Software) -> Software:
    """With Transformer Engine's cross entropy, whose gradient overwrites the logits."""
    return replace(software, holds=replace(software.holds, logit_bytes=2, waiting_logit_bytes=2))
