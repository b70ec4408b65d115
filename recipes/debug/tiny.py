"""Seconds on a laptop; what the tests train."""

from mai.recipe import (
    Cosine,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    PrecisionConfig,
    Recipe,
    TrainConfig,
)


def tiny() -> Recipe:
    return Recipe(
        name="tiny",
        model=ModelConfig(
            num_layers=4,
            hidden_size=64,
            ffn_hidden_size=128,
            num_heads=4,
            num_kv_heads=2,
            head_size=16,
            vocab_size=512,
        ),
        data=DataConfig(documents=("python:stdlib",), folder="data/tiny", sequence_length=64),
        # Small steps on 2,048 tokens: in larger ones Adam turns rounding, by which layouts (and micro-batches) differ,
        # into relative differences of 1e-5 and more within 20 steps.
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule=Cosine(warmup_steps=10)),
        parallel=ParallelConfig(micro_batch_sequences=4),
        precision=PrecisionConfig(compute="fp32"),
        train=TrainConfig(steps=20, batch_tokens=32 * 64),
    )
