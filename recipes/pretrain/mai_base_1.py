"""MAI-Base-1 in the shape that was published in June 2026, as secondary notes give it; the report was not read.

Published: 78 layers, dense networks and latent mixtures of experts in alternation; 512 experts, 8 for each token;
hidden size 6,652 (taken for 6,656, half of the dense width 13,312); expert dimension 10,240, latent 3,072; 8 key-value
heads; five layers with a window of 512 and rotary positions to one without either; vocabulary 200,019; balanced over
the whole batch; 134M tokens a step, 30T at 16K context; 8,192 GB200.

Assumed: the expert dimension counts gate and up projection together, 2 x 5,120, which alone gives the published 962B in
all and about 35B active; 56 heads of 128 (8 key-value heads divide them); softmax scores; rates and schedule.
Attention's output projection is published to begin at zero; here it begins as all others that write into the residual
stream.
"""

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


def mai_base_1() -> Recipe:
    """The published shape, 965B, 38B active: tensor 4 x context 4 x pipeline 13 x data 64 = 13,312 of 15,000 H100s."""
    base = mai1_500b()
    experts = MixtureOfExperts(
        num_experts=512,
        experts_per_token=8,
        ffn_hidden_size=5120,
        every=2,
        latent_size=3072,
        auxiliary_loss="micro_batch",
        auxiliary_loss_weight=1e-3,
    )
    return replace(
        base,
        name="mai-base-1",
        model=ModelConfig(
            num_layers=78,
            hidden_size=6656,
            ffn_hidden_size=13_312,
            num_heads=56,
            num_kv_heads=8,
            head_size=128,
            vocab_size=200_064,
            window=512,
            global_every=6,
            global_positions=False,
            feed_forward=experts,
        ),
        data=replace(base.data, folder="data/mai-base-1", sequence_length=16_384),
        optimizer=OptimizerConfig(learning_rate=2e-4, schedule=WarmupStableDecay(warmup_steps=2000)),
        # 8,192 x 16,384 = 134 million tokens, as published; 224,000 steps are 30 trillion.
        train=TrainConfig(steps=224_000, batch_tokens=8192 * 16_384),
        # Six layers a stage, of which three have experts; 64 expert ranks hold 8 experts each.
        parallel=ParallelConfig(tensor=4, sequence=True, context=4, pipeline=13, data=64, expert=64),
        evaluate=replace(base.evaluate, sequences=512 * 13),
    )
