"""Recipe and layout -> this rank's part of the model."""

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from mai.engine.groups import Groups
from mai.engine.initialize import initialize_weights
from mai.engine.layers import decoder_block
from mai.engine.translate import transformer_config
from mai.parallel.layout import Layout
from mai.parallel.stages import stage_layers
from mai.recipe import Recipe


def build_model(
    recipe: Recipe, layout: Layout, groups: Groups, *, device: torch.device, max_length: int, sequence_parallel: bool
) -> GPTModel:
    """The layers of this pipeline stage, cut for this tensor rank, with the recipe's initial weights."""
    # Nothing here draws from Megatron's random states, but its layers refuse to be built without them.
    model_parallel_cuda_manual_seed(recipe.train.seed, force_reset_rng=True)
    layers = stage_layers(recipe.model.num_layers, layout.pipeline, groups.pipeline_rank)
    model = GPTModel(
        transformer_config(recipe, layout, sequence_parallel=sequence_parallel),
        transformer_layer_spec=decoder_block(
            recipe.model, layers_of_stage=len(layers), max_length=max_length, device=device
        ),
        vocab_size=recipe.model.vocab_size,
        max_sequence_length=max_length,
        pre_process=groups.is_first_stage,
        post_process=groups.is_last_stage,
        # CoreAttention turns queries and keys itself.
        position_embedding_type="none",
    ).to(device)
    initialize_weights(model, recipe.model, seed=recipe.train.seed)
    return model
