"""Which parameters a virtual stage holds, how much of each a rank has, and how Megatron-Core orders them."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from mai.model.shapes import (
    Parameter,
    Split,
    depth_parameters,
    embedding,
    final_norm,
    layer_parameters,
    output_layer,
)
from mai.parallel.layout import Layout
from mai.parallel.stages import VirtualStage
from mai.recipe import Recipe


def parameters_of(recipe: Recipe, virtual_stage: VirtualStage) -> list[Parameter]:
    """In the order in which Megatron-Core's modules register them: buckets are filled in it.

    The last one has the embedding once more where further depths look tokens up, and, as its output layer, where the
    two are tied (megatron/core/models/gpt/gpt_model.py, GPTModel, core 0.16.1)."""
    return list(_registered(_of_forward_pass(recipe, virtual_stage)))


def both_ends_hold(recipe: Recipe) -> frozenset[str]:
    """Parameters that are one and that the first and the last stage hold each."""
    model = recipe.model
    if recipe.parallel.pipeline == 1:
        return frozenset()
    if model.tied_embeddings:
        return frozenset({embedding(model).name, output_layer(model).name})
    return frozenset({embedding(model).name} if model.multi_token_depths else ())


def has_final_norm(recipe: Recipe, virtual_stage: VirtualStage) -> bool:
    """Before the output layer; where further depths follow, behind the last layer, though the last virtual stage may
    have none (megatron/core/transformer/transformer_block.py, has_final_layernorm_in_this_stage, core 0.16.1)."""
    model = recipe.model
    return model.num_layers - 1 in virtual_stage.layers if model.multi_token_depths else virtual_stage.has_loss


def elements_of(parameter: Parameter, layout: Layout) -> int:
    """On a rank, before it is shared out."""
    if parameter.is_expert:
        return parameter.num_elements // layout.expert // (1 if parameter.split is Split.NONE else layout.expert_tensor)
    return parameter.num_elements // (1 if parameter.split is Split.NONE else layout.tensor)


def _of_forward_pass(recipe: Recipe, virtual_stage: VirtualStage) -> Iterator[Parameter]:
    model = recipe.model
    if virtual_stage.has_embedding or (virtual_stage.has_loss and model.multi_token_depths):
        yield embedding(model)
    for layer in virtual_stage.layers:
        yield from layer_parameters(model, layer)
    if has_final_norm(recipe, virtual_stage):
        yield final_norm(model)
    if virtual_stage.has_loss:
        for depth in range(model.multi_token_depths):
            yield from depth_parameters(model, depth)
        if not (model.tied_embeddings and virtual_stage.has_embedding):
            yield output_layer(model)


_PLACES = {"core_attention": 0, "linear_proj": 1, "fc1_latent_proj": 3, "fc2_latent_proj": 3}
"""Where an attention or a feed-forward layer registers a module, the lowest first; all others are at 2. Attention
registers its two before the derived class has its own (megatron/core/transformer/attention.py), and our LatentMoELayer
its two behind all others."""


def _registered(parameters: Iterable[Parameter]) -> Iterator[Parameter]:
    for _, together in groupby(parameters, key=_around):
        yield from sorted(together, key=lambda parameter: _PLACES.get(parameter.name.split(".")[-2], 2))


def _around(parameter: Parameter) -> str:
    """The attention or feed-forward layer that it is in, or else its own name."""
    for name in (".self_attention.", ".mlp."):
        if name in parameter.name:
            return parameter.name.partition(name)[0] + name
    return parameter.name
