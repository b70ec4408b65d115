"""A recipe that the tests of this folder know by heart, and words that change its kind; those that ship may change."""

from mai.recipe import DataConfig, ModelConfig, OptimizerConfig, PrecisionConfig, Recipe, TrainConfig


def small() -> Recipe:
    return Recipe(
        name="small",
        model=ModelConfig(
            num_layers=4,
            hidden_size=64,
            ffn_hidden_size=128,
            num_heads=4,
            num_kv_heads=2,
            head_size=16,
            vocab_size=512,
        ),
        data=DataConfig(documents=("python:stdlib",), folder="data/small", sequence_length=64),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        precision=PrecisionConfig(compute="fp32"),
        train=TrainConfig(steps=20, batch_tokens=8 * 64),
    )


def experts(**fields: object) -> str:
    """The words that give it eight experts, two for each token; `fields` say what differs."""
    chosen = {"num_experts": 8, "experts_per_token": 2, "ffn_hidden_size": 64} | fields
    return " ".join([f"model.feed_forward.{name}={value}" for name, value in {"kind": "experts", **chosen}.items()])


def latent(**fields: object) -> str:
    """The words that give it latent attention; `fields` say what differs."""
    chosen = {"key_value_rank": 32, "rotary_head_size": 8, "value_head_size": 16} | fields
    words = [f"model.attention.{name}={value}" for name, value in {"kind": "latent", **chosen}.items()]
    return " ".join([*words, "model.num_kv_heads=4"])
