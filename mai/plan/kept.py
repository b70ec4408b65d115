"""What one layer keeps of one micro-batch until its backward pass, under the software of a setting.

`activations.py` counts mai's own. Others differ in the few things that `Keeps` names.
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
    keeps, cut, architecture = setting.software.keeps, setting.cut, setting.architecture
    # Where keys are not gathered, a rank keeps as much as if its own part of the sequence were all.
    whole = cut if keeps.context_keys else replace(cut, length=cut.length // cut.context, context=1)
    kept = kept_bytes(architecture, layer, whole)
    if layer.experts is not None and not keeps.router_inputs:
        kept -= _router_input(layer.experts, setting)
    if keeps.context_outputs and cut.context > 1:
        output = layer.attention.heads * layer.attention.value_size
        kept += cut.tokens * output * cut.element_bytes // cut.tensor
    if keeps.activation_inputs and layer.network is not None and layer.network.is_gated:
        kept += cut.tokens * layer.network.width * cut.element_bytes // cut.tensor
    if keeps.fp8_inputs and setting.precision in ("fp8", "fp4"):
        kept -= _saved_by_fp8(setting, layer)
    if keeps.dropout_masks:
        kept += 2 * cut.own_tokens * architecture.hidden
    if keeps.attention_scores:
        kept += score_bytes(setting, layer)
    return kept


def _router_input(experts: Experts, setting: Setting) -> int:
    """The copy in fp32 that `kept_bytes` counts."""
    is_copied = setting.element_bytes != _FP32
    return is_copied * setting.cut.own_tokens * experts.router.inputs * _FP32


def _saved_by_fp8(setting: Setting, layer: Layer) -> int:
    """A byte less of each number that a product reads and nothing else keeps; a byte more of what attention gave, which
    it keeps in bf16 as well (transformer_engine/pytorch/module/layernorm_linear.py, linear.py and grouped_linear.py)."""
    cut, hidden, attention = setting.cut, setting.architecture.hidden, layer.attention
    output = cut.tokens * attention.heads * attention.value_size // cut.tensor
    saved = cut.own_tokens * (hidden + attention.num_normed * attention.is_latent) - output
    if layer.network is not None:
        saved += cut.tokens * layer.network.width // cut.tensor
    if layer.experts is None:
        return saved + cut.own_tokens * hidden
    # What the router reads stays as it is.
    network = layer.experts.network
    rows = cut.own_tokens * layer.experts.per_token * cut.expert_tensor
    return saved + rows * (network.products[0].inputs + network.width // cut.expert_tensor)
