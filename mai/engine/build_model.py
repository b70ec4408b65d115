"""Recipe and layout -> this rank's virtual stages, shared out over the data-parallel ranks."""

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from mai.engine.full_sharding import FullSharding
from mai.engine.groups import Groups, sharding_mesh
from mai.engine.initialize import initialize_weights
from mai.engine.language_model import Model
from mai.engine.layers import RMSNorm, decoder_block, further_layers
from mai.engine.mends import mend
from mai.engine.multi_token import MultiTokenModel, multi_token_block
from mai.engine.operations import choose, compute_dtype, use_weight_gradient
from mai.engine.optimizer_sharding import OptimizerSharding
from mai.engine.own_core import check_own_core
from mai.engine.sharded_state import UpdateRules
from mai.engine.sharding import Sharding
from mai.engine.translate import transformer_config
from mai.parallel.layout import Layout
from mai.parallel.stages import virtual_stages_of
from mai.recipe import Recipe


def build_model(
    recipe: Recipe, layout: Layout, groups: Groups, *, device: torch.device, max_length: int, sequence_parallel: bool
) -> list[GPTModel]:
    """The virtual stages of this pipeline stage, cut for this rank, with the recipe's initial weights."""
    prepare_megatron(recipe)
    model = build_virtual_stages(
        recipe, layout, groups, device=device, max_length=max_length, sequence_parallel=sequence_parallel
    )
    initialize_weights(model, recipe.model, seed=recipe.train.seed)
    return model


def prepare_megatron(recipe: Recipe) -> None:
    """After the groups are built, and before any layer is."""
    mend()
    use_weight_gradient(choose(recipe))
    # Nothing here draws from Megatron's random states, but its layers refuse to be built without them.
    model_parallel_cuda_manual_seed(recipe.train.seed, force_reset_rng=True)


def build_virtual_stages(
    recipe: Recipe, layout: Layout, groups: Groups, *, device: torch.device, max_length: int, sequence_parallel: bool
) -> list[GPTModel]:
    """`build_model` with whatever the memory held before."""
    check_own_core(recipe.model, dtype=compute_dtype(recipe.precision), device=device)
    config = transformer_config(recipe, layout, sequence_parallel=sequence_parallel)
    further = further_layers(recipe.model, max_length=max_length, device=device)
    return [
        (MultiTokenModel if further else Model)(
            config,
            transformer_layer_spec=decoder_block(
                recipe.model, layers=virtual_stage.layers, max_length=max_length, device=device
            ),
            vocab_size=recipe.model.vocab_size,
            max_sequence_length=max_length,
            pre_process=virtual_stage.has_embedding,
            post_process=virtual_stage.has_loss,
            # The attention turns queries and keys itself.
            position_embedding_type="none",
            share_embeddings_and_output_weights=recipe.model.tied_embeddings,
            mtp_block_spec=multi_token_block(further, norm=RMSNorm) if further and virtual_stage.has_loss else None,
            vp_stage=number if layout.schedule.is_interleaved else None,
        ).to(device)
        for number, virtual_stage in enumerate(
            virtual_stages_of(recipe.model.num_layers, recipe.parallel, groups.pipeline_rank)
        )
    ]


def share_out(
    modules: list[GPTModel],
    rules: UpdateRules,
    recipe: Recipe,
    layout: Layout,
    groups: Groups,
    *,
    device: torch.device,
) -> Sharding:
    """As `parallel.sharding` says, with an optimizer; all ranks must call."""
    if recipe.parallel.sharding == "optimizer":
        return OptimizerSharding(modules, rules, recipe, layout, copy=groups.sharding_copy)
    mesh, expert_mesh = (
        sharding_mesh(layout, device_type=device.type, of_experts=of_experts) for of_experts in (False, True)
    )
    return FullSharding(modules, rules, recipe, mesh=mesh, expert_mesh=expert_mesh)
