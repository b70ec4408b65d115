"""Megatron's model with our output layer and cross entropy.

Shapes: S positions of this rank, B sequences, H hidden size, V this rank's entries of the vocabulary.
"""

from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from mai.engine.annotations import Annotations
from mai.engine.core_attention import CoreAttention
from mai.engine.output_layer import OutputLayer
from mai.engine.router import ExpertRouter


class Model(GPTModel):
    """One virtual stage; what it returns is Megatron's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.post_process:
            # GPTModel names its class in the middle of its own __init__ (models/gpt/gpt_model.py).
            self.output_layer.__class__ = OutputLayer
        if self.config.embedding_scale != 1 and hasattr(self, "embedding"):
            self.embedding.register_forward_hook(_scaled)
        for layer in self.decoder.layers:
            hand_over(layer, depth=0)

    def _is_in_embd_group(self) -> bool:
        """Whether GPTModel copies the first stage's embedding here when it is built (models/common/language_module/
        language_module.py). No: `initialize.py` gives both stages the same, and `mai check --build` has nothing to
        copy."""
        return False

    def _postprocess(
        self,
        hidden_states: Tensor,
        input_ids: Tensor,
        *,
        labels: Tensor | None,
        packed_seq_params: Annotations | None = None,
        **rest: Any,
    ) -> Tensor:
        if labels is None or not self.post_process:
            out: Tensor = super()._postprocess(hidden_states, input_ids, labels=labels, **rest)
            return out
        weights_BS = None if packed_seq_params is None else packed_seq_params.weights(0)
        return self._token_losses(hidden_states, labels, weights_BS)

    def _token_losses(
        self, hidden_SBH: Tensor, targets_BS: Tensor, gradient_BS: Tensor | None, *, depth: int = 0
    ) -> Tensor:
        """Losses of tokens [B, S], fp32; all tensor ranks must call.

        `gradient_BS`: what the backward pass will bring for them, where that is not one for each. `depth`: 0 are the
        next tokens', whose losses must be there before those of further ones."""
        tied = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        operations, trains = self.config.operations, torch.is_grad_enabled()
        # Without gradients every sharding and every loss can have them in chunks.
        if operations.linear_cross_entropy or (operations.cross_entropy and not trains):
            losses_BS: Tensor = self.output_layer(
                hidden_SBH, weight=tied, targets_BS=targets_BS, gradient_BS=gradient_BS, is_first=depth == 0
            )
            return losses_BS
        logits_SBV, _ = self.output_layer(hidden_SBH, weight=tied)
        return self.compute_language_model_loss(targets_BS, logits_SBV)

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Labels [B, S] and this tensor rank's logits [S, B, V] -> losses of tokens [B, S], fp32.

        All tensor ranks must call. Where gradients are wanted, the logits are overwritten with them."""
        cross_entropy = self.config.operations.cross_entropy
        if cross_entropy is None:
            return super().compute_language_model_loss(labels, logits)  # type: ignore[no-any-return]
        group = self.pg_collection.tp
        losses_T = cross_entropy(
            logits.flatten(0, 1), labels.t().flatten(), first_entry=group.rank() * logits.size(-1), group=group
        )
        losses_BS: Tensor = losses_T.view(labels.size(1), labels.size(0)).t().contiguous()
        return losses_BS


def _scaled(embedding: Any, _: Any, embedded: Tensor) -> Tensor:
    """Embeddings times the model's factor, which is rounded as they are (Gemma: transformers, modeling_gemma3.py)."""
    return embedded * torch.tensor(embedding.config.embedding_scale, dtype=embedded.dtype).item()


def cores_of(module: torch.nn.Module) -> list[CoreAttention]:
    """The attention cores in it."""
    return [inner for inner in module.modules() if isinstance(inner, CoreAttention)]


def hand_over(layer: torch.nn.Module, *, depth: int) -> None:
    """Before every pass through this layer, a recomputation too: give its attention cores the micro-batch's
    annotations, and its router, as Megatron's `padding_mask`, which of its tokens do not count at this depth."""
    cores = cores_of(layer)
    has_router = any(isinstance(module, ExpertRouter) for module in layer.modules())

    def before(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        annotations = options.get("packed_seq_params")
        for core in cores:
            core.annotations = annotations
        if has_router and annotations is not None:
            options = {**options, "padding_mask": annotations.uncounted(depth)}
        return arguments, options

    layer.register_forward_pre_hook(before, with_kwargs=True)
