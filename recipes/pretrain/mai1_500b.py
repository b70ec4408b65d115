"""MAI-1 as the news of 2024 had it, a dense model of about 500 billion parameters, within 15,000 H100s."""

from dataclasses import replace

from mai.recipe import (
    CheckpointConfig,
    Cosine,
    DataConfig,
    EvaluateConfig,
    Llama3Positions,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    PrecisionConfig,
    Recipe,
    TrainConfig,
)


def mai1_500b() -> Recipe:
    """Dense, 495B parameters: tensor 8 x context 2 x pipeline 26 x data 36 = 14,976 of 15,000 H100s, 24 as spares."""
    return Recipe(
        name="mai1-500b",
        # Llama 3 405B's shape (arXiv 2407.21783, table 3) with width and depth grown together: 128 layers,
        # embedding and loss divide into 26 x 5 virtual stages, 144 heads and 16 key-value heads into 8 tensor ranks.
        model=ModelConfig(
            num_layers=128,
            hidden_size=18_432,
            ffn_hidden_size=55_296,  # 3 x width: Llama 3 405B has 3.25, and about 500B is met with this
            num_heads=144,  # of 128 numbers, as in Llama 3
            num_kv_heads=16,  # two a tensor rank; Llama 3 has one
            head_size=128,
            vocab_size=200_064,  # o200k_base, 200,019 tokens, up to a multiple of 128
            rotary_base=500_000.0,  # Llama 3, section 3.2
        ),
        data=DataConfig(
            documents=("data/corpus",),
            folder="data/mai1-500b",
            tokenizer="data/o200k_base/tokenizer.json",
            sequence_length=8192,  # Llama 3, section 3.4.1
        ),
        optimizer=OptimizerConfig(
            learning_rate=8e-5,  # Llama 3 405B, section 3.4.1
            schedule=Cosine(warmup_steps=8000, final_fraction=0.01),  # the same place: down to 8e-7
        ),
        # 1,872 sequences, 15.3 million tokens: about the 16 million that Llama 3 405B ends with, and a multiple of what
        # 36 copies take; 1,000,000 steps are 15.3 trillion tokens, 30 for each parameter.
        train=TrainConfig(steps=1_000_000, batch_tokens=52 * 36 * 8192),
        # The fastest that fits, by `mai plan mai1_500b --hardware h100 --gpus 15000 --search`: a node's 8 GPUs share
        # each matrix, two nodes each sequence; 52 micro-batches for 26 x 5 virtual stages, a layer each: bubble
        # 25 / (5 x 52) of the time (arXiv 2104.04473, section 2.2).
        parallel=ParallelConfig(
            tensor=8, sequence=True, context=2, pipeline=26, virtual_stages=5, stages="balanced", data=36
        ),
        precision=PrecisionConfig(compute="bf16"),
        # Something fails every 3.4 hours at this size; `mai plan` says how often is best.
        checkpoint=CheckpointConfig(every_steps=100, keep=3),
        evaluate=EvaluateConfig(every_steps=1000, sequences=52 * 36),
    )


def mai1_500b_256k() -> Recipe:
    """Its phase of 262,144 tokens a sequence: tensor 8 x context 16 x data 112, all of it in shards = 14,336 H100s."""
    base = mai1_500b()
    return replace(
        base,
        name="mai1-500b-256k",
        # Positions as Llama 3.1 stretched them, 32 times: from 8,192 to 262,144.
        model=replace(base.model, positions=Llama3Positions(factor=32.0)),
        data=replace(base.data, folder="data/mai1-500b-256k", sequence_length=2**18),
        # Weights of the first phase, at a hundredth of its rate; 27,000 steps are 800 billion tokens, as in Llama 3
        # (section 3.4.2).
        checkpoint=replace(base.checkpoint, start_from="runs/mai1-500b"),
        optimizer=replace(base.optimizer, learning_rate=8e-7, schedule=Cosine(warmup_steps=200, final_fraction=1.0)),
        train=replace(base.train, steps=27_000, batch_tokens=112 * 2**18),
        # Every rank holds 16,384 tokens of a sequence, as 16 context ranks share it (section 3.3.2).
        parallel=ParallelConfig(tensor=8, sequence=True, context=16, data=112, sharding="full", recompute=("layer",)),
        evaluate=replace(base.evaluate, sequences=112),
    )
