"""Models whose sizes and figures are published."""

from mai.recipe import LatentAttention, MixtureOfExperts, ModelConfig

# arXiv 2407.21783, table 3.
LLAMA_3_8B = ModelConfig(
    num_layers=32,
    hidden_size=4096,
    ffn_hidden_size=14_336,
    num_heads=32,
    num_kv_heads=8,
    head_size=128,
    vocab_size=128_256,
)
LLAMA_3_405B = ModelConfig(
    num_layers=126,
    hidden_size=16_384,
    ffn_hidden_size=53_248,
    num_heads=128,
    num_kv_heads=8,
    head_size=128,
    vocab_size=128_256,
)

# arXiv 2401.04088, table 1.
MIXTRAL_8X7B = ModelConfig(
    num_layers=32,
    hidden_size=4096,
    ffn_hidden_size=14_336,
    num_heads=32,
    num_kv_heads=8,
    head_size=128,
    vocab_size=32_000,
    feed_forward=MixtureOfExperts(num_experts=8, experts_per_token=2, ffn_hidden_size=14_336),
)

_DEEPSEEK_ATTENTION = LatentAttention(key_value_rank=512, query_rank=1536, rotary_head_size=64, value_head_size=128)

# arXiv 2405.04434, section 3.1.2; its two shared experts are one of twice the width.
DEEPSEEK_V2 = ModelConfig(
    num_layers=60,
    hidden_size=5120,
    ffn_hidden_size=12_288,
    num_heads=128,
    num_kv_heads=128,
    head_size=128,
    vocab_size=102_400,
    attention=_DEEPSEEK_ATTENTION,
    feed_forward=MixtureOfExperts(
        num_experts=160,
        experts_per_token=6,
        ffn_hidden_size=1536,
        shared_ffn_hidden_size=2 * 1536,
        num_dense_layers=1,
    ),
)

# arXiv 2412.19437, section 4.2, without the multi-token-prediction module.
DEEPSEEK_V3 = ModelConfig(
    num_layers=61,
    hidden_size=7168,
    ffn_hidden_size=18_432,
    num_heads=128,
    num_kv_heads=128,
    head_size=128,
    vocab_size=129_280,
    attention=_DEEPSEEK_ATTENTION,
    feed_forward=MixtureOfExperts(
        num_experts=256,
        experts_per_token=8,
        ffn_hidden_size=2048,
        shared_ffn_hidden_size=2048,
        num_dense_layers=3,
        scores="sigmoid",
        routed_scale=2.5,
        bias_update_rate=1e-3,
    ),
)
