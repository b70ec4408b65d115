"""What a virtual stage keeps for the backward pass: its layers (`activations.py`), and what stands at its ends.

Not in it: the batch's tokens and targets, 16 bytes a token of the whole step; and what comes and goes within a pass
(`peaks.py`).
"""

from collections.abc import Collection

from mai.model.shapes import Split
from mai.parallel.stages import VirtualStage
from mai.plan.model.activations import Cut, kept_bytes
from mai.plan.model.architecture import Architecture
from mai.recipe.parallel import Recomputed

_FP32, _INT64, _BOOL = 4, 8, 1


def kept_bytes_of_virtual_stage(
    architecture: Architecture,
    virtual_stage: VirtualStage,
    cut: Cut,
    recompute: Collection[Recomputed] = (),
    *,
    keeps_logits: bool = False,
) -> int:
    """Bytes of one micro-batch that it has computed forward, on the context rank that keeps most.

    `keeps_logits`: with a loss of one's own or `sharding=full`, logits are kept and their gradient is computed in the
    backward pass; otherwise in the forward pass, chunk by chunk (mai/kernels/linear_cross_entropy.py)."""
    layers = [architecture.layers[number] for number in virtual_stage.layers]
    # By identity: equal layers of a recipe's model are one, and hashing them takes longer than this.
    kinds = {id(layer): layer for layer in layers}
    each = {kind: kept_bytes(architecture, layer, cut, recompute) for kind, layer in kinds.items()}
    kept = sum(each[id(layer)] for layer in layers)
    # What its last layer gives: the last norm reads it, or Megatron's schedule holds it until its gradient comes back
    # (model_parallel_config.py, deallocate_pipeline_outputs).
    kept += cut.own_tokens * architecture.hidden * cut.element_bytes
    if virtual_stage.has_embedding and cut.tensor > 1:
        # Which row of its part of the vocabulary each token is, and whether it is there.
        kept += cut.tokens * (_INT64 + _BOOL)
    if virtual_stage.has_loss:
        kept += _of_loss(architecture, cut, recompute, keeps_logits=keeps_logits)
    return kept


def gather_buffer_bytes(architecture: Architecture, virtual_stage: VirtualStage, cut: Cut) -> int:
    """The one buffer of a process that the inputs of matrices are gathered into along the sequence, for all layers
    and micro-batches (tensor_parallel/layers.py, get_global_memory_buffer)."""
    if not cut.sequence:
        return 0
    layers = {architecture.layers[number] for number in virtual_stage.layers}
    gathered = [
        product.inputs
        for layer in layers
        for product in layer.products()
        if product.split in (Split.ROWS, Split.GATE_AND_UP_ROWS)
    ]
    if virtual_stage.has_loss and architecture.depths:
        gathered.append(architecture.depth_matrix.inputs)
    return cut.tokens * max(gathered, default=0) * cut.element_bytes


def _of_loss(architecture: Architecture, cut: Cut, recompute: Collection[Recomputed], *, keeps_logits: bool) -> int:
    """What the last norm, output layers and cross entropies of all depths keep, and what further depths compute."""
    hidden, depths = architecture.hidden * cut.element_bytes, architecture.depths
    if keeps_logits:
        # What the cross entropy overwrites; what output layers and depths read, of which Megatron joins a copy.
        of_logits = cut.tokens * (architecture.vocabulary // cut.tensor) * cut.element_bytes
        kept = (1 + depths) * of_logits + cut.own_tokens * (1 + 2 * depths) * hidden
        if cut.tensor > 1:
            # Targets, and the logarithm of all ranks' sum.
            kept += (1 + depths) * cut.tokens * (_INT64 + _FP32)
    else:
        # The gradient of what output layers read, and what is foreseen for that of each loss; what depths read.
        kept = (1 + depths) * cut.tokens * (hidden + _FP32) + cut.own_tokens * depths * hidden
    kept += (1 + depths) * cut.tokens * _FP32 + cut.own_tokens * _FP32
    return kept + depths * _of_depth(architecture, cut, recompute)


def _of_depth(architecture: Architecture, cut: Cut, recompute: Collection[Recomputed]) -> int:
    """What one further depth keeps, up to its last norm (mai/engine/multi_token.py)."""
    hidden = architecture.hidden * cut.element_bytes
    # Its tokens and which are still there, and its layer; a recomputed one begins with the embedding of the tokens.
    kept = cut.tokens * (2 * _INT64 + (cut.tensor > 1) * _BOOL)
    kept += kept_bytes(architecture, architecture.layers[-1], cut, recompute)
    if "layer" in recompute:
        return kept
    # What its matrix gives is gathered whole, and its layer's input a view of that.
    kept += (cut.tokens - cut.own_tokens) * hidden
    # The embedding, both halves of what the matrix reads, and what the last norm reads; a number a token of each norm.
    return kept + cut.own_tokens * (4 * hidden + 3 * _FP32)
