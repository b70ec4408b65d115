"""What one layer keeps of one micro-batch until its backward pass, under the software of a setting.

mai's own are in `activations.py`. Others differ from them in a few named things (`Keeps`), and in how context ranks
share attention: mai gathers keys and values; Megatron-Core passes them on or exchanges heads, and keeps its own part.
"""

from dataclasses import replace

from mai.plan.activations import Cut, kept_bytes
from mai.plan.architecture import Experts, Layer
from mai.plan.setting import Setting

_FP32 = 4


def layer_bytes(setting: Setting, layer: Layer) -> int:
    """On the expert rank with most tokens, nothing recomputed."""
    kept = _evenly(setting, layer)
    experts = layer.experts
    if experts is None or setting.imbalance == 1:
        return kept
    # A layer's bytes are linear in the tokens that its experts get.
    more = replace(layer, feed_forward=replace(experts, per_token=experts.per_token + 1))
    of_rows = (_evenly(setting, more) - kept) * experts.per_token
    return kept + round((setting.imbalance - 1) * of_rows)


def input_bytes(setting: Setting) -> int:
    """Of a layer's input: what is kept of it where it is recomputed."""
    return setting.cut.own_tokens * setting.architecture.hidden * setting.element_bytes


def score_bytes(setting: Setting, layer: Layer) -> int:
    """Softmax, its dropout mask and its output, where no fused attention spares them: 5 a s^2 b (Korthikanti et al.,
    arXiv 2205.05198, section 4.1)."""
    cut = setting.cut
    each = 2 * setting.element_bytes + setting.software.keeps.dropout_masks
    return layer.attention.heads * cut.length * cut.tokens // cut.tensor * each


def _evenly(setting: Setting, layer: Layer) -> int:
    software, cut, architecture = setting.software, setting.cut, setting.architecture
    if software.name == "mai":
        return kept_bytes(architecture, layer, cut)
    # Its own part of the sequence as if that were all.
    kept = kept_bytes(architecture, layer, replace(cut, length=cut.length // cut.context, context=1))
    keeps, experts = software.keeps, layer.experts
    if experts is not None:
        kept -= _router_input(experts, setting)
    if keeps.context_outputs and cut.context > 1:
        output = layer.attention.heads * layer.attention.value_size
        kept += cut.tokens * output * cut.element_bytes // cut.tensor
    if keeps.activation_inputs and layer.network is not None and layer.network.is_gated:
        kept += cut.tokens * layer.network.width * cut.element_bytes // cut.tensor
    if keeps.dropout_masks:
        kept += 2 * cut.own_tokens * architecture.hidden
    if keeps.attention_scores:
        kept += score_bytes(setting, layer)
    return kept


def _router_input(experts: Experts, setting: Setting) -> int:
    """mai's router reads a copy in fp32; Megatron-Core's reads what the experts read."""
    is_copied = setting.element_bytes != _FP32
    return is_copied * setting.cut.own_tokens * experts.router.inputs * _FP32
