"""Our names -> Megatron's configs: the one place where both are spoken.

Megatron's configs rewrite themselves in `__post_init__`; `_honest` reads back every field that was set, so that what
the recipe says is what runs.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.pipeline_parallel import schedules
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout
from megatron.core.transformer.transformer_config import MLATransformerConfig

from mai.engine.experts import expert_fields
from mai.engine.latent_attention import latent_fields
from mai.engine.operations import choose, compute_dtype
from mai.parallel.layout import Layout
from mai.recipe import GroupedQueryAttention, ModelConfig, OptimizerConfig, ParallelConfig, PrecisionConfig, Recipe
from mai.recipe.pipeline_schedule import PipelineSchedule
from mai.recipe.stage_text import texts_of_virtual_stages

Config = TypeVar("Config", TransformerConfig, MegatronOptimizerConfig, DistributedDataParallelConfig)


def _honest(config_type: type[Config], **fields: Any) -> Config:
    config = config_type(**fields)
    changed = {name: getattr(config, name) for name, value in fields.items() if getattr(config, name) != value}
    assert not changed, f"{config_type.__name__} changed what it was given: {changed}"
    return config


def _leave_as_it_is(weight: torch.Tensor) -> torch.Tensor:
    return weight


def output_init_std(model: ModelConfig) -> float:
    """Standard deviation of the projections that write into the residual stream (GPT-2, section 2.3)."""
    return model.init_std / math.sqrt(2 * model.num_layers)


def transformer_config(recipe: Recipe, layout: Layout, *, sequence_parallel: bool) -> TransformerConfig:
    """`sequence_parallel` is an argument because decoding one token at a time cannot be split along the sequence."""
    model, dtype = recipe.model, compute_dtype(recipe.precision)
    latent, operations = model.latent_attention, choose(recipe)
    config = _honest(
        TransformerConfig if latent is None else MLATransformerConfig,
        **({} if latent is None else latent_fields(model, latent)),
        **expert_fields(model, layout),
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_heads,
        num_query_groups=model.num_kv_heads,
        kv_channels=model.head_size,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_epsilon,
        layernorm_zero_centered_gamma=model.zero_centred_norms,
        add_bias_linear=model.biases,
        add_qkv_bias=model.has_query_biases,
        # Each tensor rank norms its own heads with the same weight: Megatron sums its gradient over them.
        qk_layernorm=isinstance(model.attention, GroupedQueryAttention) and model.attention.qk_norm,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        # Megatron's name for "the activation is a module of the layer spec": ours, see layers.py.
        use_te_activation_func=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=layout.tensor,
        context_parallel_size=layout.context,
        sequence_parallel=sequence_parallel,
        mtp_num_layers=model.multi_token_depths or None,
        mtp_loss_scaling_factor=recipe.objective.multi_token_weight,
        **_pipeline(recipe, layout),
        **_recompute(recipe.parallel),
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        # The loss of a step is the sum over its tokens over their number, whatever the micro-batches.
        calculate_per_token_loss=True,
        # initialize.py draws the weights, the same for every layout. Not perform_initialization=False: that also leaves
        # out the marks of what is tensor parallel (tensor_parallel/layers.py), and the gradient norm comes out wrong.
        init_method=_leave_as_it_is,
        output_layer_init_method=_leave_as_it_is,
        embedding_init_method=_leave_as_it_is,
        gradient_accumulation_fusion=operations.weight_gradient is not None,
        # Fusions of Megatron that need apex, Transformer Engine or a compiler.
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=False,
    )
    config.operations = operations
    config.embedding_scale, config.logit_scale = model.embedding_scale, model.logit_scale
    return config


def _pipeline(recipe: Recipe, layout: Layout) -> dict[str, Any]:
    if layout.pipeline == 1:
        return {"pipeline_model_parallel_size": 1}
    schedule = layout.schedule
    stages = texts_of_virtual_stages(
        recipe.parallel.stages,
        num_layers=recipe.model.num_layers,
        num_virtual_stages=layout.pipeline * layout.virtual_stages,
    )
    # Megatron's letter for them: before the loss, which is last.
    stages[-1] = stages[-1].replace("L", "m" * recipe.model.multi_token_depths + "L")
    return {
        "pipeline_model_parallel_size": layout.pipeline,
        "virtual_pipeline_model_parallel_size": layout.virtual_stages if schedule.is_interleaved else None,
        "pipeline_model_parallel_layout": PipelineParallelLayerLayout("|".join(stages), layout.pipeline),
        # With two stages the one before and the one after are the same rank, and Megatron-Core's batched sends
        # (pipeline_parallel/p2p_communication.py) pair the interleaved schedule's messages in the wrong order: it
        # trains on wrong data and says nothing. Single sends, overlapped with compute, pair them rightly.
        "batch_p2p_comm": not schedule.sends_overlap,
        "overlap_p2p_comm": schedule.sends_overlap,
    }


def schedule_function(schedule: PipelineSchedule) -> Callable[..., Any]:
    """Megatron-Core's function that takes micro-batches through the stages in this order."""
    if schedule.num_stages == 1:
        return schedules.forward_backward_no_pipelining  # type: ignore[no-any-return]
    if schedule.is_interleaved:
        return schedules.forward_backward_pipelining_with_interleaving  # type: ignore[no-any-return]
    return schedules.forward_backward_pipelining_without_interleaving  # type: ignore[no-any-return]


_MEGATRON_MODULES = {
    "attention_core": "core_attn",
    "norms": "layernorm",
    "feed_forward": "mlp",
    "experts": "moe",
    "shared_experts": "shared_experts",
}


def _recompute(parallel: ParallelConfig) -> dict[str, Any]:
    if not parallel.recompute:
        return {}
    if "layer" in parallel.recompute:
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return {
        "recompute_granularity": "selective",
        "recompute_modules": [_MEGATRON_MODULES[module] for module in parallel.recompute],
    }


def optimizer_config(optimizer: OptimizerConfig, precision: PrecisionConfig) -> MegatronOptimizerConfig:
    return _honest(
        MegatronOptimizerConfig,
        optimizer="adam",
        decoupled_weight_decay=True,
        lr=optimizer.learning_rate,
        weight_decay=optimizer.weight_decay,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        adam_eps=optimizer.epsilon,
        clip_grad=optimizer.clip_norm,
        use_distributed_optimizer=True,
        overlap_param_gather=True,
        bf16=compute_dtype(precision) is torch.bfloat16,
        params_dtype=compute_dtype(precision),
    )


def data_parallel_config(layout: Layout) -> DistributedDataParallelConfig:
    return _honest(
        DistributedDataParallelConfig,
        use_distributed_optimizer=True,
        grad_reduce_in_fp32=True,
        # A bucket is reduced while the layers before it go backward, and gathered while they go forward.
        overlap_grad_reduce=True,
        overlap_param_gather=True,
        num_distributed_optimizer_instances=layout.sharding_copies,
    )
