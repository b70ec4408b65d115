"""Megatron's model with our cross entropy."""

from megatron.core.models.gpt import GPTModel
from torch import Tensor


class Model(GPTModel):
    """One part of the model; what it returns is Megatron's."""

    def _is_in_embd_group(self) -> bool:
        """Whether GPTModel copies the first stage's embedding here when it is built (models/common/language_module/
        language_module.py). No: `initialize.py` gives both stages the same, and `mai check --build` has nothing to
        copy."""
        return False

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
