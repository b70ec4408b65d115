"""What benchmarks/step.py measures: training loops of one rank, each with the same model, batch and update.

mai           kernels=auto
reference     mai with kernels=reference
plain         benchmarks/plain_llama.py
compiled      the same, each layer and the loss by torch.compile
liger         transformers' LlamaForCausalLM with Liger's kernels in it
megatron      the layers of Megatron-Core's local spec, in mai's engine; without Transformer Engine and apex
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from torch import Tensor, nn

from benchmarks.plain_llama import PlainLlama, PlainLoop
from mai.batch import Batch
from mai.engine import build_model, groups
from mai.engine.device import DeviceKind, open_device
from mai.engine.engine import Engine, summed
from mai.engine.translate import transformer_config
from mai.model.families import llama
from mai.parallel.layout import Layout
from mai.parallel.place import ALONE
from mai.recipe import Recipe

Step = Callable[[], None]


class Loops:
    """Builds each by its name; the process belongs to them."""

    def __init__(self, recipe: Recipe, device: DeviceKind) -> None:
        threads = torch.get_num_threads()
        self.recipe, self.opened = recipe, open_device(device, ALONE)
        torch.set_num_threads(threads)
        groups.join_world(backend=self.opened.backend, place=ALONE, timeout_seconds=60)
        self.layout = Layout(tensor=1, pipeline=1, data=1)
        self.axes = groups.build_groups(self.layout, timeout_seconds=60)
        generator = torch.Generator().manual_seed(0)
        shape = (recipe.batch_sequences, recipe.data.sequence_length + 1)
        tokens = torch.randint(0, recipe.model.vocab_size, shape, generator=generator)
        self.batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

    def build(self, name: str) -> Step:
        """A call that makes one step."""
        builders: dict[str, Callable[[], Step]] = {
            "mai": lambda: self._mai("auto"),
            "reference": lambda: self._mai("reference"),
            "plain": lambda: self._plain(PlainLlama(self.recipe.model, max_length=self.recipe.data.sequence_length)),
            "compiled": self._compiled,
            "liger": self._liger,
            "megatron": self._megatron,
        }
        return builders[name]()

    def _mai(self, kernels: Literal["auto", "reference"]) -> Step:
        recipe = replace(self.recipe, kernels=kernels)
        if self.opened.kind == "cpu":
            engine = Engine(recipe, self.layout, self.axes, self.opened)
        else:
            # Drawing a billion weights on the CPU takes longer than what is measured.
            with mock.patch.object(build_model, "initialize_weights", _draw_on_the_card):
                engine = Engine(recipe, self.layout, self.axes, self.opened)
        rate = recipe.optimizer.learning_rate

        def step() -> None:
            engine.apply(engine.forward_backward(self.batch, summed), learning_rate=rate)

        return step

    def _plain(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Step:
        loop = PlainLoop(self.recipe, model, device=self.opened.torch_device, loss=loss)
        tokens, targets = (x.to(self.opened.torch_device) for x in (self.batch.tokens_BS, self.batch.targets_BS))
        rate = self.recipe.optimizer.learning_rate
        return lambda: _discard(loop.step(tokens, targets, learning_rate=rate))

    def _compiled(self) -> Step:
        model = PlainLlama(self.recipe.model, max_length=self.recipe.data.sequence_length)
        for layer in model.layers:
            layer.compile()

        @torch.compile
        def loss_of(hidden_BSE: Tensor, targets_BS: Tensor) -> Tensor:
            logits = model.head(model.norm(hidden_BSE))
            return F.cross_entropy(logits.flatten(0, 1).float(), targets_BS.flatten(), reduction="sum")

        return self._plain(model, loss=lambda tokens, targets: loss_of(model.hidden(tokens), targets))

    def _liger(self) -> Step:
        from liger_kernel.transformers import apply_liger_kernel_to_llama
        from transformers import LlamaConfig, LlamaForCausalLM

        apply_liger_kernel_to_llama()
        config = LlamaConfig(**llama.config_of(self.recipe.model, context=self.recipe.data.sequence_length))
        config.use_cache = False
        with torch.device(self.opened.torch_device):
            model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")

        def loss(tokens_BS: Tensor, targets_BS: Tensor) -> Tensor:
            # Their targets are labels that they shift themselves: given shifted, they are not moved again.
            summed: Tensor = model(input_ids=tokens_BS, labels=targets_BS, shift_labels=targets_BS).loss
            return summed * targets_BS.numel()

        return self._plain(model, loss=loss)

    def _megatron(self) -> Step:
        with mock.patch("mai.engine.engine.build_model", _local_model):
            return self._mai("reference")


def _discard(_: Any) -> None:
    """A step returns nothing."""


def _draw_on_the_card(model: list[GPTModel], *_: Any, **__: Any) -> None:
    for parameter in model[0].parameters():
        nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else nn.init.ones_(parameter)


def _local_model(recipe: Recipe, layout: Layout, *_: Any, device: torch.device, **__: Any) -> list[GPTModel]:
    """As NVIDIA/Megatron-LM builds it where Transformer Engine is not installed, with the fusions that need no
    extension."""
    build_model.prepare_megatron(recipe)
    config = transformer_config(recipe, layout, sequence_parallel=False)
    config.use_te_activation_func = False
    config.bias_activation_fusion = config.cross_entropy_loss_fusion = True
    model = GPTModel(
        config,
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=recipe.model.vocab_size,
        max_sequence_length=recipe.data.sequence_length,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=recipe.model.tied_embeddings,
    ).to(device)
    _draw_on_the_card([model])
    return [model]
