"""A mixture of experts of about 500 billion parameters, as MAI-1-preview was trained on about 15,000 H100s."""

from dataclasses import replace

from mai.recipe import (
    MixtureOfExperts,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    Recipe,
    TrainConfig,
    WarmupStableDecay,
)
from recipes.pretrain.mai1_500b import mai1_500b


def mai1_500b_moe() -> Recipe:
    """Experts, 497B parameters, 44B active: tensor 4 x pipeline 16 x data 232 = 14,848 of 15,000 H100s."""
    dense = mai1_500b()
    experts = MixtureOfExperts(
        num_experts=128,  # 16 on each of 8 expert ranks
        experts_per_token=8,  # DeepSeek-V3 (arXiv 2412.19437, section 4.2), Qwen3
        ffn_hidden_size=3200,  # narrow experts, about half of the width: 497B with this
        shared_ffn_hidden_size=3200,  # DeepSeek-V3 has one of an expert's size
        num_dense_layers=0,  # DeepSeek-V3 has 3; without, every stage is alike
        scores="sigmoid",
        routed_scale=2.5,
        auxiliary_loss="sequence",  # DeepSeek-V3, section 4.2: bias and a light loss over sequences
        auxiliary_loss_weight=1e-4,
        bias_update_rate=1e-3,
    )
    return replace(
        dense,
        name="mai1-500b-moe",
        model=ModelConfig(
            num_layers=64,  # one in each of 16 stages' four virtual stages
            hidden_size=6144,
            ffn_hidden_size=18_432,  # of no layer: all have experts
            num_heads=64,
            num_kv_heads=8,
            head_size=128,
            vocab_size=200_064,  # o200k_base
            rotary_base=500_000.0,
            feed_forward=experts,
        ),
        data=replace(dense.data, folder="data/mai1-500b-moe", sequence_length=4096),  # DeepSeek-V3
        optimizer=OptimizerConfig(
            learning_rate=2.2e-4,  # DeepSeek-V3, section 4.2
            schedule=WarmupStableDecay(warmup_steps=2000, decay_fraction=0.3),  # constant for 10 of 14.8 T tokens
        ),
        # 14,848 sequences, 64 micro-batches for 16 stages: 60.8 million tokens, DeepSeek-V3 has 62.9; 250,000 steps are
        # 15.2 trillion.
        train=TrainConfig(steps=250_000, batch_tokens=64 * 232 * 4096),
        # The fastest without context ranks, by `mai plan mai1_500b_moe --hardware h100 --gpus 15000 --imbalance 1.3
        # --search`. Expert ranks are taken from a stage's 928: 8 of them, a node's, hold all experts; there are 116
        # copies.
        parallel=ParallelConfig(tensor=4, sequence=True, pipeline=16, virtual_stages=4, data=232, expert=8),
        evaluate=replace(dense.evaluate, sequences=32 * 232),
    )
