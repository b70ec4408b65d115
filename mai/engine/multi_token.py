"""Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2): layers behind the last that each predict one
token further, with the embedding and the output layer of the model itself.

    depth 0   hidden state of the last layer, normed ----------------------------------> output layer: the next token
    depth d   [norm of the embedding d tokens on | norm of depth d - 1] -> matrix -> layer, norm -> output layer: the
              token after d more

The block is Megatron's (transformer/multi_token_prediction.py, core 0.16.1), on the last part of the pipeline, where
the embedding stands once more; Megatron sums both embeddings' gradients. What GPTModel makes of the block is not used
(models/gpt/gpt_model.py, GPTModel._postprocess), because it
- hangs the further losses onto the backward pass with a factor from the config, and keeps their values in a global of
  the process that counts unequal context ranks as equal (MTPLossLoggingHelper);
- computes them in evaluation too, where nobody reads them.

Shapes: S positions of this rank, B sequences, H hidden size, D depths after the next token.
"""

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.transformer import ModuleSpec
from megatron.core.transformer.multi_token_prediction import (
    MultiTokenPredictionBlockSubmodules,
    MultiTokenPredictionLayer,
    MultiTokenPredictionLayerSubmodules,
    roll_tensor,
)
from torch import Tensor

from mai.engine.matrices import ColumnMatrix
from mai.engine.model import Model


class MultiTokenModel(Model):
    """The model whose last part returns the token losses of all depths, [1 + D, B, S]; in evaluation [1, B, S].

    A position that has no token so far on has loss 0. It needs labels: `Sampler` leaves the block out."""

    def _postprocess(self, hidden_states: Tensor, input_ids: Tensor, *, labels: Tensor | None, **_: Any) -> Tensor:
        if not self.post_process:
            return hidden_states
        assert labels is not None
        losses = [self._token_losses(hidden_states, labels)]
        if self.training:
            losses += self._further_losses(hidden_states, input_ids, labels)
        return torch.stack(losses)

    def _further_losses(self, hidden_SBH: Tensor, tokens_BS: Tensor, targets_BS: Tensor) -> Iterator[Tensor]:
        # Its positions are those of the attention core; the block moves them along with the tokens and needs a tensor.
        of_all_depths = self.mtp(
            input_ids=tokens_BS,
            position_ids=tokens_BS,
            hidden_states=hidden_SBH,
            attention_mask=None,
            embedding=self.embedding,
        )
        # What each further loss counts (Engine weighs them), told before the backward pass says so.
        weight = self.config.mtp_loss_scaling_factor / self.config.mtp_num_layers
        is_there_BS = torch.ones_like(targets_BS)
        for deeper_SBH in of_all_depths.split(hidden_SBH.size(0))[1:]:
            # The end of a sequence is filled up with zeros.
            targets_BS, is_there_BS = (roll_tensor(x, cp_group=self.mtp.cp_group)[0] for x in (targets_BS, is_there_BS))
            yield self._token_losses(deeper_SBH, targets_BS, weight * is_there_BS) * is_there_BS


def multi_token_block(layers: list[ModuleSpec], *, norm: type) -> ModuleSpec:
    """The block's spec, with these decoder layers, one a depth."""
    specs = [
        ModuleSpec(
            module=MultiTokenPredictionLayer,
            submodules=MultiTokenPredictionLayerSubmodules(
                enorm=norm, hnorm=norm, eh_proj=ColumnMatrix, transformer_layer=layer, layer_norm=norm
            ),
        )
        for layer in layers
    ]
    return MultiTokenPredictionBlockSubmodules(layer_specs=specs)


def split_depths(losses: Tensor) -> tuple[Tensor, Tensor]:
    """The next token's losses [B, S] and further depths' [D, B, S], of what the model's last part returned."""
    return (losses, losses.new_empty(0)) if losses.dim() == 2 else (losses[0], losses[1:])


def num_further_targets(num_tokens: int, *, sequence_length: int, depths: int) -> int:
    """How many tokens further depths predict, of whole sequences: each one fewer of a sequence than the one before."""
    num_sequences = num_tokens // sequence_length
    return num_sequences * sum(sequence_length - depth for depth in range(1, depths + 1))
