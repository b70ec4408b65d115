"""A recipe that the tests of this folder know by heart; those that ship may change."""

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
