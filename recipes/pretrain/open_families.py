"""The open families from scratch, in their published sizes; layouts, batches and rates are ours where no paper says."""

from mai.model.families import deepseek_v3 as deepseek
from mai.model.families import gpt_oss, llama, mistral, mixtral, qwen3, qwen3_moe
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


def llama3_8b() -> Recipe:
    """Llama 3 8B: tensor 2 x data 64 = 128 ranks."""
    return _from_scratch("llama3-8b", llama.SIZES["8b"], ParallelConfig(tensor=2, sequence=True, data=64), rate=3e-4)


def llama3_70b() -> Recipe:
    """Llama 3 70B: tensor 8 x pipeline 4 x data 32 = 1,024 ranks."""
    parallel = ParallelConfig(tensor=8, sequence=True, pipeline=4, virtual_stages=5, data=32)
    return _from_scratch("llama3-70b", llama.SIZES["70b"], parallel, rate=1.5e-4)


def llama3_405b() -> Recipe:
    """Llama 3 405B in the layout of arXiv 2407.21783, table 4: tensor 8 x pipeline 16 x data 128 = 16,384 ranks."""
    parallel = ParallelConfig(tensor=8, sequence=True, pipeline=16, stages="balanced", data=128)
    return _from_scratch("llama3-405b", llama.SIZES["405b"], parallel, rate=8e-5)


def mistral_7b() -> Recipe:
    """Mistral 7B: tensor 2 x data 64 = 128 ranks."""
    return _from_scratch("mistral-7b", mistral.SIZES["7b"], ParallelConfig(tensor=2, sequence=True, data=64), rate=3e-4)


def mixtral_8x7b() -> Recipe:
    """Mixtral 8x7B: tensor 2 x pipeline 4 x data 32, expert 8 = 256 ranks."""
    parallel = ParallelConfig(tensor=2, sequence=True, pipeline=4, data=32, expert=8)
    return _from_scratch("mixtral-8x7b", mixtral.SIZES["8x7b"], parallel, rate=2e-4)


def qwen3_8b() -> Recipe:
    """Qwen3 8B: tensor 2 x data 64 = 128 ranks."""
    return _from_scratch("qwen3-8b", qwen3.SIZES["8b"], ParallelConfig(tensor=2, sequence=True, data=64), rate=3e-4)


def qwen3_235b_a22b() -> Recipe:
    """Qwen3 235B-A22B: tensor 2 x pipeline 8 x data 64, expert 32, 94 layers balanced = 1,024 ranks."""
    parallel = ParallelConfig(tensor=2, sequence=True, pipeline=8, stages="balanced", data=64, expert=32)
    return _from_scratch("qwen3-235b-a22b", qwen3_moe.SIZES["235b_a22b"], parallel, rate=2e-4)


def deepseek_v3() -> Recipe:
    """DeepSeek-V3 in the layout of arXiv 2412.19437, section 3.2: pipeline 16 x data 128, expert 64 = 2,048 ranks."""
    # 61 layers, embedding and loss in 16 stages: three or four each. The last has two layers, and beside the loss the
    # layer of multi-token prediction.
    # In bf16 it does not fit as it is: the paper computes in FP8, and norms and latent projections once more.
    parallel = ParallelConfig(pipeline=16, stages="balanced", data=128, expert=64, recompute=("layer",))
    return _from_scratch("deepseek-v3", deepseek.SIZES["671b_a37b"], parallel, rate=2.2e-4)


def gpt_oss_120b() -> Recipe:
    """gpt-oss 120B: tensor 4 x pipeline 4 x data 32, expert 32 = 512 ranks."""
    parallel = ParallelConfig(tensor=4, sequence=True, pipeline=4, data=32, expert=32)
    return _from_scratch("gpt-oss-120b", gpt_oss.SIZES["120b"], parallel, rate=2e-4)


def _from_scratch(name: str, model: ModelConfig, parallel: ParallelConfig, *, rate: float) -> Recipe:
    """About 4 million tokens of 4,096 a step, in whole rounds of the pipeline; a trillion in all."""
    length, copies = 4096, parallel.data or 1
    round_sequences = copies * parallel.pipeline
    sequences = round_sequences * -(-1024 // round_sequences)
    return Recipe(
        name=name,
        model=model,
        data=DataConfig(
            documents=("data/corpus",), folder=f"data/{name}", tokenizer="data/tokenizer.json", sequence_length=length
        ),
        optimizer=OptimizerConfig(learning_rate=rate, schedule=Cosine(warmup_steps=2000)),
        train=TrainConfig(steps=10**12 // (sequences * length), batch_tokens=sequences * length),
        parallel=parallel,
        precision=PrecisionConfig(compute="bf16"),
        checkpoint=CheckpointConfig(every_steps=500),
        evaluate=EvaluateConfig(every_steps=1000, sequences=round_sequences),
    )
