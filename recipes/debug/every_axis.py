"""Every axis at once on 16 ranks, for three kinds of model: what `mai certify` and the parity matrix try."""

from dataclasses import replace

from mai.recipe import LatentAttention, MixtureOfExperts, ParallelConfig, Recipe
from recipes.debug.tiny import tiny


def dense_every_axis() -> Recipe:
    """`tiny`, dense: tensor 2, sequence, context 2, 2 x 2 virtual stages, uneven; fp32 states shared by two each."""
    recipe = tiny()
    return replace(
        recipe,
        name="dense-every-axis",
        # Heads enough for four tensor ranks; two queries share a key.
        model=replace(recipe.model, num_heads=8, num_kv_heads=4, head_size=8),
        parallel=ParallelConfig(
            tensor=2,
            sequence=True,
            context=2,
            pipeline=2,
            virtual_stages=2,
            stages="E|tt|t|tL",
            data=2,
            sharding_ranks=2,
            recompute=("norms",),
            micro_batch_sequences=4,
        ),
    )


def experts_every_axis() -> Recipe:
    """With experts, as in DeepSeek-V3: a dense layer first, a shared expert, sigmoid scores balanced by a bias."""
    recipe = dense_every_axis()
    experts = MixtureOfExperts(
        num_experts=4,
        experts_per_token=2,
        ffn_hidden_size=64,
        shared_ffn_hidden_size=64,
        num_dense_layers=1,
        scores="sigmoid",
        auxiliary_loss="sequence",
        auxiliary_loss_weight=1e-3,
        bias_update_rate=1e-3,
    )
    return replace(
        recipe,
        name="experts-every-axis",
        model=replace(recipe.model, feed_forward=experts),
        parallel=replace(recipe.parallel, expert=2, expert_tensor=2),
    )


def latent_every_axis() -> Recipe:
    """With latent attention, and experts balanced by a loss over each micro-batch."""
    recipe = experts_every_axis()
    latent = LatentAttention(key_value_rank=32, query_rank=48, rotary_head_size=8, value_head_size=16)
    experts = MixtureOfExperts(num_experts=4, experts_per_token=2, ffn_hidden_size=64, auxiliary_loss="micro_batch")
    return replace(
        recipe,
        name="latent-every-axis",
        model=replace(recipe.model, num_kv_heads=8, attention=latent, feed_forward=experts),
    )
