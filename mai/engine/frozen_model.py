"""A model that does not train: it speaks and scores, without an optimizer and without gradients."""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from mai.batch import Batch
from mai.engine import sharded_state
from mai.engine.build_model import build_model
from mai.engine.device import Device
from mai.engine.generate import Sampling, generate
from mai.engine.groups import Groups
from mai.engine.passes import Passes
from mai.errors import RecipeError
from mai.parallel.layout import Layout
from mai.recipe import Recipe


class FrozenModel:
    """The recipe's model for text of at most `max_length` tokens; load it through `shards` and `finish_load`.

    It scores in every layout. It speaks in those of tensor and pipeline ranks alone: see `generate`."""

    def __init__(self, recipe: Recipe, layout: Layout, groups: Groups, device: Device, *, max_length: int) -> None:
        self._layout, self._groups, self._device = layout, groups, device
        # The layers of further depths train the model, and neither speak nor score.
        recipe = replace(recipe, model=replace(recipe.model, multi_token_depths=0))
        # Not cut along the sequence: one new token could not be.
        self._virtual_stages = build_model(
            recipe, layout, groups, device=device.torch_device, max_length=max_length, sequence_parallel=False
        )
        self._passes = Passes(
            recipe,
            layout,
            groups,
            device,
            virtual_stages=self._virtual_stages,
            wrapped_stages=self._virtual_stages,
            max_length=max_length,
        )
        self.shards = sharded_state.weight_shards(self._virtual_stages)

    def finish_load(self) -> None:
        """After the shards were filled: take them as the model's weights."""
        sharded_state.take_weights(self._virtual_stages, self.shards)
        self.shards = []

    def log_probs(self, batch: Batch) -> Tensor:
        """Log-probabilities of the targets, fp32 [B, S] on the CPU; the same on all model ranks of a copy. All ranks
        must call."""
        return self._passes.log_probs(batch)

    @torch.no_grad()
    def generate(
        self, tokens_BS: Tensor, *, num_tokens: int, sampling: Sampling, end_tokens: Collection[int]
    ) -> Tensor:
        """Continue the sequences; returns the new tokens [B, N]. All ranks must call alike.

        RecipeError where the layout cuts the sequence, or a stage into virtual stages."""
        layout = self._layout
        if layout.context > 1 or layout.virtual_stages > 1:
            raise RecipeError(
                f"parallel.context={layout.context}, parallel.virtual_stages={layout.virtual_stages}: a model speaks "
                "on tensor and pipeline ranks alone; use 1 for both"
            )
        (module,) = self._virtual_stages
        tokens = tokens_BS.to(self._device.torch_device)
        new = generate(module, self._groups, tokens, num_tokens=num_tokens, sampling=sampling, end_tokens=end_tokens)
        return new.cpu()
