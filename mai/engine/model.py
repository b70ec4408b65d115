"""Megatron's model with our output layer and cross entropy.

Shapes: S positions of this rank, B sequences, H hidden size, V this rank's entries of the vocabulary.
"""

from typing import Any

from megatron.core.models.gpt import GPTModel
from torch import Tensor

from mai.engine.output_layer import OutputLayer


class Model(GPTModel):
    """One part of the model; what it returns is Megatron's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.post_process:
            # GPTModel names its class in the middle of its own __init__ (models/gpt/gpt_model.py).
            self.output_layer.__class__ = OutputLayer

    def _is_in_embd_group(self) -> bool:
        """Whether GPTModel copies the first stage's embedding here when it is built (models/common/language_module/
        language_module.py). No: `initialize.py` gives both stages the same, and `mai check --build` has nothing to
        copy."""
        return False

    def _postprocess(self, hidden_states: Tensor, input_ids: Tensor, *, labels: Tensor | None, **rest: Any) -> Tensor:
        if labels is None or not self.post_process:
            out: Tensor = super()._postprocess(hidden_states, input_ids, labels=labels, **rest)
            return out
        return self._token_losses(hidden_states, labels)

    def _token_losses(self, hidden_SBH: Tensor, targets_BS: Tensor, gradient_BS: Tensor | None = None) -> Tensor:
        """Losses of tokens [B, S], fp32; all tensor ranks must call.

        `gradient_BS`: what the backward pass will bring for them, where that is not one for each."""
        tied = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        if self.config.operations.linear_cross_entropy is not None:
            losses_BS: Tensor = self.output_layer(
                hidden_SBH, weight=tied, targets_BS=targets_BS, gradient_BS=gradient_BS
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
