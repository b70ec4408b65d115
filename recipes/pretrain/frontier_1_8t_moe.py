"""A mixture of experts of about 1.8 trillion parameters, as GPT-4o is estimated to be; nothing is published."""

from dataclasses import replace

from mai.recipe import MixtureOfExperts, ModelConfig, ParallelConfig, Recipe, TrainConfig
from recipes.pretrain.mai1_500b_moe import mai1_500b_moe


def frontier_1_8t_moe() -> Recipe:
    """1.8T parameters, 16 experts, two a token: tensor 8 x context 4 x pipeline 15 x data 31 = 14,880 H100s."""
    base = mai1_500b_moe()
    # Estimated by the press in 2023: 120 layers, 16 experts of about 111B parameters each, two for each token. All
    # other numbers are assumed so that the sum is met.
    experts = MixtureOfExperts(
        num_experts=16,
        experts_per_token=2,
        ffn_hidden_size=25_088,
        auxiliary_loss="micro_batch",  # GShard (arXiv 2006.16668)
        auxiliary_loss_weight=1e-2,
    )
    return replace(
        base,
        name="frontier-1.8t-moe",
        model=ModelConfig(
            num_layers=120,
            hidden_size=12_288,
            ffn_hidden_size=25_088,
            num_heads=96,
            num_kv_heads=8,
            head_size=128,
            vocab_size=200_064,
            rotary_base=500_000.0,
            feed_forward=experts,
        ),
        data=replace(base.data, folder="data/frontier-1.8t-moe", sequence_length=8192),
        # 1,860 sequences of 8,192: 15.2 million tokens; 850,000 steps are 13 trillion, the estimate.
        train=TrainConfig(steps=850_000, batch_tokens=15 * 124 * 8192),
        # A stage has 8 layers, each a virtual stage. Of its 992 ranks 32 hold all experts, each half of one.
        parallel=ParallelConfig(
            tensor=8, sequence=True, context=4, pipeline=15, virtual_stages=8, data=31, expert=16, expert_tensor=2
        ),
        evaluate=replace(base.evaluate, sequences=15 * 124),
    )
