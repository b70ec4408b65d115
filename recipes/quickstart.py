"""The README's first command: real text, 3D parallel, minutes on a laptop."""

from mai.recipe import (
    CheckpointConfig,
    Cosine,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    PrecisionConfig,
    Recipe,
    TrainConfig,
)


def quickstart() -> Recipe:
    """A small Llama on Python's own sources: tensor 2 x pipeline 2 x data 2 on 8 CPU processes."""
    return Recipe(
        name="quickstart",
        model=ModelConfig(
            num_layers=4,
            hidden_size=192,
            ffn_hidden_size=512,
            num_heads=6,
            num_kv_heads=2,
            head_size=32,
            vocab_size=4096,
        ),
        # Where Python comes without its tests, it has 11 MB of sources: a twentieth of them still fills the evaluation.
        data=DataConfig(
            documents=("python:stdlib",), folder="data/quickstart", sequence_length=128, held_out_fraction=0.05
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule=Cosine(warmup_steps=20, final_fraction=0.02)),
        parallel=ParallelConfig(tensor=2, pipeline=2, data=2, micro_batch_sequences=8),
        # A CPU without bf16 units computes bf16 in fp32 and converts: fp32 is the fast choice there.
        precision=PrecisionConfig(compute="fp32"),
        train=TrainConfig(steps=160, batch_tokens=32 * 128),
        checkpoint=CheckpointConfig(every_steps=80),
        # Enough of the held-out text that the figure can stand beside the baselines, which read all of it.
        evaluate=EvaluateConfig(every_steps=80, sequences=1024),
    )
