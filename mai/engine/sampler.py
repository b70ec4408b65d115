"""A model that only speaks: no optimizer, no gradients, in any layout that divides it."""

from dataclasses import replace

import torch
from torch import Tensor

from mai.engine import sharded_state
from mai.engine.build import build_model
from mai.engine.device import Device
from mai.engine.generate import Sampling, generate
from mai.engine.groups import Groups
from mai.parallel.layout import Layout
from mai.recipe import Recipe


class Sampler:
    """The recipe's model for text of at most `max_length` tokens; load it through `shards` and `finish_load`."""

    def __init__(self, recipe: Recipe, layout: Layout, groups: Groups, device: Device, *, max_length: int) -> None:
        self._groups, self._device = groups, device
        # The layers of further depths train the model and do not speak.
        recipe = replace(recipe, model=replace(recipe.model, multi_token_depths=0))
        (self._module,) = build_model(
            recipe, layout, groups, device=device.torch_device, max_length=max_length, sequence_parallel=False
        )
        self.shards = sharded_state.weight_shards([self._module])

    def finish_load(self) -> None:
        """After the shards were filled: take them as the model's weights."""
        sharded_state.take_weights([self._module], self.shards)
        self.shards = []

    @torch.no_grad()
    def generate(self, tokens_BS: Tensor, *, num_tokens: int, sampling: Sampling, end_token: int | None) -> Tensor:
        """Continue the sequences; returns the new tokens [B, N]. All ranks must call alike."""
        tokens = tokens_BS.to(self._device.torch_device)
        new = generate(
            self._module, self._groups, tokens, num_tokens=num_tokens, sampling=sampling, end_token=end_token
        )
        return new.cpu()
