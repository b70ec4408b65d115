"""What micro-batches in flight keep until their backward pass, under the software of a setting.

`activations.py` and `virtual_stage_activations.py` count mai's own layers and ends. Others differ in the few things
that `Keeps` names.
"""

from collections.abc import Collection
from dataclasses import replace

from mai.parallel.stages import VirtualStage
from mai.plan.model.activations import kept_bytes, router_copy_bytes
from mai.plan.model.architecture import Layer
from mai.plan.model.virtual_stage_activations import kept_bytes_of_virtual_stage
from mai.plan.setting.setting import Setting
from mai.recipe.parallel import Recomputed


def kept_of_virtual_stage(setting: Setting, virtual_stage: VirtualStage) -> int:
    """What a virtual stage keeps of a micro-batch that it has computed forward; without the logits that `loss_bytes`
    counts."""
    architecture, recompute = setting.architecture, setting.parallel.recompute
    if setting.software.holds.logit_tokens is not None:
        # Full sharding has no sum that a chunk's gradient could be added to: all logits wait for the backward pass.
        keeps_logits = setting.parallel.sharding == "full"
        return kept_bytes_of_virtual_stage(
            architecture, virtual_stage, setting.cut, recompute, keeps_logits=keeps_logits
        )
    kept = sum(kept_of_layer(setting, architecture.layers[number], recompute) for number in virtual_stage.layers)
    if virtual_stage.has_loss:
        # Before its layer, a depth's embedding and both halves of what its matrix reads.
        kept += architecture.depths * (
            kept_of_layer(setting, architecture.layers[-1], recompute) + 3 * input_bytes(setting)
        )
    if virtual_stage.has_embedding and setting.software.keeps.dropout_masks:
        kept += setting.cut.own_tokens * architecture.hidden
    return kept


def kept_of_layer(setting: Setting, layer: Layer, recompute: Collection[Recomputed] = ()) -> int:
    """What a layer keeps of a micro-batch, on the expert rank that gets most tokens."""
    keeps, cut, architecture = setting.software.keeps, setting.cut, setting.architecture
    # Where keys are not gathered, a rank keeps as much as if its own part of the sequence were all.
    whole = cut if keeps.context_keys else replace(cut, length=cut.length // cut.context, context=1)
    kept = kept_bytes(architecture, layer, whole, recompute)
    if "layer" in recompute:
        return kept
    if layer.experts is not None and not keeps.router_inputs:
        kept -= router_copy_bytes(layer.experts, cut)
    if keeps.context_outputs and cut.context > 1:
        kept += cut.tokens * _output(layer) * cut.element_bytes // cut.tensor
    if keeps.activation_inputs and layer.network is not None and layer.network.is_gated:
        kept += cut.tokens * layer.network.width * cut.element_bytes // cut.tensor
    if keeps.fp8_inputs and setting.precision in ("fp8", "fp4"):
        kept -= _saved_by_fp8(setting, layer)
    if keeps.dropout_masks:
        kept += 2 * cut.own_tokens * architecture.hidden
    if keeps.attention_scores and "attention_core" not in recompute:
        kept += score_bytes(setting, layer)
    return kept


def input_bytes(setting: Setting) -> int:
    """Bytes of the hidden state of a micro-batch, as a layer reads it and a stage sends it on."""
    return setting.cut.own_tokens * setting.architecture.hidden * setting.element_bytes


def score_bytes(setting: Setting, layer: Layer) -> int:
    """Softmax, its dropout mask and its output, where no fused attention spares them: 5 a s^2 b (Korthikanti et al.,
    arXiv 2205.05198, section 4.1)."""
    cut = setting.cut
    each = 2 * setting.element_bytes + setting.software.keeps.dropout_masks
    return layer.attention.heads * cut.length * cut.tokens // cut.tensor * each


def _output(layer: Layer) -> int:
    return layer.attention.heads * layer.attention.value_size


def _saved_by_fp8(setting: Setting, layer: Layer) -> int:
    """A byte less of each number that a product reads and nothing else keeps; a byte more of what attention gave, which
    stays in bf16 as well (transformer_engine/pytorch/module/layernorm_linear.py, linear.py and grouped_linear.py)."""
    cut, hidden, attention = setting.cut, setting.architecture.hidden, layer.attention
    saved = cut.own_tokens * (hidden + attention.num_normed * attention.is_latent)
    saved -= cut.tokens * _output(layer) // cut.tensor
    if layer.network is not None:
        saved += cut.tokens * layer.network.width // cut.tensor
    if layer.experts is None:
        return saved + cut.own_tokens * hidden
    # What the router reads stays as it is.
    network = layer.experts.network
    rows = cut.own_tokens * layer.experts.per_token * cut.expert_tensor
    return saved + rows * (network.products[0].inputs + network.width // cut.expert_tensor)
