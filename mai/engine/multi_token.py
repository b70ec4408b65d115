"""Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2): layers behind the last that each predict one
token further, with the embedding and the output layer of the model itself.

    depth 0   hidden state of the last layer, normed ----------------------------------> output layer: the next token
    depth d   [norm of the embedding d tokens on | norm of depth d - 1] -> matrix -> layer, norm -> output layer: the
              token after d more

The block is Megatron's (transformer/multi_token_prediction.py, core 0.16.1), on the last virtual stage, where
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

from mai.engine.annotations import Annotations
from mai.engine.language_model import Model, hand_over
from mai.engine.matrices import ColumnMatrix


class MultiTokenModel(Model):
    """The model whose last virtual stage returns the token losses of all depths, [1 + D, B, S]; in evaluation
    [1, B, S].

    Those of further depths are weighed already; a position that has no token so far on has loss 0. It needs labels:
    `FrozenModel` leaves the block out."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for depth, further in enumerate(self.mtp.layers if self.mtp_process else [], start=1):
            hand_over(further.transformer_layer, depth=depth)

    def _postprocess(
        self,
        hidden_states: Tensor,
        input_ids: Tensor,
        *,
        labels: Tensor | None,
        packed_seq_params: Annotations | None = None,
        **_: Any,
    ) -> Tensor:
        if not self.post_process:
            return hidden_states
        assert labels is not None
        weights_BS = None if packed_seq_params is None else packed_seq_params.weights(0)
        losses = [self._token_losses(hidden_states, labels, weights_BS)]
        if self.training:
            losses += self._further_losses(hidden_states, input_ids, labels, packed_seq_params)
        return torch.stack(losses)

    def _further_losses(
        self, hidden_SBH: Tensor, tokens_BS: Tensor, targets_BS: Tensor, annotations: Annotations | None
    ) -> Iterator[Tensor]:
        # Its positions are those of the attention core; the block moves them along with the tokens and needs a tensor.
        of_all_depths = self.mtp(
            input_ids=tokens_BS,
            position_ids=tokens_BS,
            hidden_states=hidden_SBH,
            attention_mask=None,
            packed_seq_params=annotations,
            embedding=self.embedding,
        )
        # What each further loss counts (Engine weighs them), told before the backward pass says so.
        weight = self.config.mtp_loss_scaling_factor / self.config.mtp_num_layers
        is_there_BS = torch.ones_like(targets_BS)
        for depth, deeper_SBH in enumerate(of_all_depths.split(hidden_SBH.size(0))[1:], start=1):
            # The end of a sequence is filled up with zeros.
            targets_BS, is_there_BS = (roll_tensor(x, cp_group=self.mtp.cp_group)[0] for x in (targets_BS, is_there_BS))
            weights_BS = is_there_BS
            if annotations is not None and (own := annotations.weights(depth)) is not None:
                weights_BS = own
            yield self._token_losses(deeper_SBH, targets_BS, weight * weights_BS, depth=depth) * weights_BS


class FurtherLayer(MultiTokenPredictionLayer):
    """Megatron's, which takes `packed_seq_params` for those of Transformer Engine in two places; for ours, it lets them
    go on to its attention."""

    def _get_embeddings(self, *, packed_seq_params: Annotations | None = None, **rest: Any) -> Any:
        return super()._get_embeddings(**rest)

    def _checkpointed_forward(self, forward_func: Any, *, packed_seq_params: Annotations | None, **rest: Any) -> Any:
        """What is recomputed takes tensors alone, by position."""
        names = tuple(rest)

        def forward(*values: Any) -> Any:
            return forward_func(**dict(zip(names, values, strict=True)), packed_seq_params=packed_seq_params)

        return super()._checkpointed_forward(forward, **rest)


def multi_token_block(layers: list[ModuleSpec], *, norm: type) -> ModuleSpec:
    """The block's spec, with these decoder layers, one a depth."""
    specs = [
        ModuleSpec(
            module=FurtherLayer,
            submodules=MultiTokenPredictionLayerSubmodules(
                enorm=norm, hnorm=norm, eh_proj=ColumnMatrix, transformer_layer=layer, layer_norm=norm
            ),
        )
        for layer in layers
    ]
    return MultiTokenPredictionBlockSubmodules(layer_specs=specs)


def split_depths(losses: Tensor) -> tuple[Tensor, Tensor]:
    """The next token's losses [B, S] and further depths' [D, B, S], of what the model's last virtual stage returned."""
    return (losses, losses.new_empty(0)) if losses.dim() == 2 else (losses[0], losses[1:])
