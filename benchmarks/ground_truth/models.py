"""The model of a row: what the CSV prints, and what the model's own report says where a cell is empty."""

from dataclasses import replace

from benchmarks.ground_truth.rows import Row, UnusableError, number
from mai.model.families import deepseek_v3
from mai.model.shapes import Split
from mai.plan.model.architecture import (
    Architecture,
    Attention,
    Experts,
    Layer,
    Network,
    Product,
    gated_network,
    of_model,
)

_NOT_GATED = ("GPT", "MPT", "BLOOM", "MT-NLG", "Nemotron4", "Megatron CI gpt3")
"""Models whose feed-forward network is two plain matrices, with biases."""

_UNPRINTED: dict[str, dict[str, str]] = {
    # Nemotron-4 15B, arXiv 2402.16819, table 1.
    "Nemotron4-15B": {"kv_heads": "8", "vocab": "256000"},
    # InternLM's repository, configs/7B_sft.py.
    "InternLM-7B": {"ffn": "11008", "vocab": "103168"},
}
_HEAD_SIZES = {"Qwen3-30B-A3B": 128, "Qwen3-235B-A22B": 128}
"""Where it is not hidden size over heads: their config.json."""

_VOCABULARY = 51_200
"""Of the GPTs that print none: GPT-2's, padded as Megatron-LM does."""


def architecture_of(row: Row) -> Architecture:
    """Raises UnusableError where the planner knows no such model, or too little of it."""
    model = row["model"]
    if "Nemotron_3" in model or "LoRA" in row["notes"] or "LoRA" in model:
        raise UnusableError("state-space layers and LoRA are not planned")
    if "deepseek" in model.lower():
        return _deepseek(row)
    facts = {name: row[name] or value for name, value in _UNPRINTED.get(model, {}).items()}
    row = {**row, **facts}
    is_gated = not model.startswith(_NOT_GATED)
    hidden = number(row, "hidden")
    layer = Layer(_attention(row, hidden, has_bias=not is_gated), _feed_forward(row, hidden, is_gated=is_gated))
    return Architecture(
        hidden=hidden,
        vocabulary=number(row, "vocab", _VOCABULARY),
        layers=(layer,) * number(row, "layers"),
        # The sweep's small model has both kinds; its number of parameters tells.
        is_tied=row["source"].startswith("HF nanotron") and row["params_b"] == "1.34",
        norms_have_bias=not is_gated,
    )


def plain_network(inputs: int, width: int) -> Network:
    """Two matrices with biases, and an activation between them."""
    products = (
        Product("linear_fc1", inputs, width, Split.ROWS, has_bias=True),
        Product("linear_fc2", width, inputs, Split.COLUMNS, has_bias=True),
    )
    return Network(width, is_gated=False, products=products)


def _attention(row: Row, hidden: int, *, has_bias: bool) -> Attention:
    heads = number(row, "heads")
    key_heads = number(row, "kv_heads", heads)
    size = _HEAD_SIZES.get(row["model"], hidden // heads)
    return Attention(
        heads=heads,
        key_heads=key_heads,
        key_size=size,
        value_size=size,
        products=(
            Product("linear_qkv", hidden, (heads + 2 * key_heads) * size, Split.ROWS, has_bias=has_bias),
            Product("linear_proj", heads * size, hidden, Split.COLUMNS, has_bias=has_bias),
        ),
    )


def _feed_forward(row: Row, hidden: int, *, is_gated: bool) -> Network | Experts:
    width = number(row, "ffn", 4 * hidden)
    num_experts = number(row, "experts", 0)
    if not num_experts:
        return gated_network(hidden, width, has_bias=False) if is_gated else plain_network(hidden, width)
    return Experts(
        number=num_experts,
        per_token=number(row, "topk"),
        network=gated_network(hidden, number(row, "moe_ffn", width), has_bias=False),
        router=Product("router", hidden, num_experts, Split.NONE),
    )


def _deepseek(row: Row) -> Architecture:
    """DeepSeek-V3 and what is cut from it; of V2 (arXiv 2405.04434, section 3.1.2) its experts."""
    model = deepseek_v3.SIZES["671b_a37b"]
    assert model.experts is not None
    experts = replace(
        model.experts,
        num_experts=number(row, "experts"),
        experts_per_token=number(row, "topk"),
        num_groups=1,
        groups_per_token=1,
    )
    is_second = "deepseekv2" in row["model"]
    if is_second:
        experts = replace(experts, ffn_hidden_size=1536, shared_ffn_hidden_size=2 * 1536, num_dense_layers=1)
    has_no_depths = is_second or "w/o MTP" in row["notes"] or "AutoModel" in row["source"]
    return of_model(
        replace(
            model,
            num_layers=number(row, "layers"),
            hidden_size=number(row, "hidden"),
            ffn_hidden_size=number(row, "ffn"),
            vocab_size=number(row, "vocab"),
            multi_token_depths=0 if has_no_depths else 1,
            feed_forward=experts,
        )
    )
