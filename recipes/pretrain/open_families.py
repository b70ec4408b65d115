"""The open families from scratch, in their published sizes; layouts, batches and rates are ours where no paper says."""

from mai.model.families.choose_family import FAMILIES
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
    """Llama 3 8B: data 128, all of it in shards = 128 ranks."""
    return _from_scratch("llama3-8b", FAMILIES["llama"].SIZES["8b"], _two_sequences_sharded(128), rate=3e-4)


def llama3_70b() -> Recipe:
    """Llama 3 70B: tensor 4 x pipeline 4 x data 64 = 1,024 ranks."""
    parallel = ParallelConfig(
        tensor=4,
        sequence=True,
        pipeline=4,
        virtual_stages=20,
        data=64,
        recompute=("norms",),
        micro_batch_sequences=2,
    )
    return _from_scratch("llama3-70b", FAMILIES["llama"].SIZES["70b"], parallel, rate=1.5e-4)


def llama3_405b() -> Recipe:
    """Llama 3 405B in the layout of arXiv 2407.21783, table 4: tensor 8 x pipeline 16 x data 128 = 16,384 ranks."""
    parallel = ParallelConfig(tensor=8, sequence=True, pipeline=16, stages="balanced", data=128)
    return _from_scratch("llama3-405b", FAMILIES["llama"].SIZES["405b"], parallel, rate=8e-5)


def mistral_7b() -> Recipe:
    """Mistral 7B: data 128, all of it in shards = 128 ranks."""
    return _from_scratch("mistral-7b", FAMILIES["mistral"].SIZES["7b"], _two_sequences_sharded(128), rate=3e-4)


def mixtral_8x7b() -> Recipe:
    """Mixtral 8x7B: tensor 2 x pipeline 8 x data 16, each expert on 2 ranks = 256 ranks."""
    parallel = ParallelConfig(
        tensor=2, sequence=True, pipeline=8, virtual_stages=4, data=16, expert_tensor=2, micro_batch_sequences=2
    )
    return _from_scratch("mixtral-8x7b", FAMILIES["mixtral"].SIZES["8x7b"], parallel, rate=2e-4)


def qwen3_8b() -> Recipe:
    """Qwen3 8B: data 128, all of it in shards = 128 ranks."""
    return _from_scratch("qwen3-8b", FAMILIES["qwen3"].SIZES["8b"], _two_sequences_sharded(128), rate=3e-4)


def qwen3_235b_a22b() -> Recipe:
    """Qwen3 235B-A22B: tensor 4 x pipeline 16 x data 16, expert 8, 94 layers balanced = 1,024 ranks."""
    parallel = ParallelConfig(
        tensor=4, sequence=True, pipeline=16, virtual_stages=6, stages="balanced", data=16, expert=8
    )
    return _from_scratch("qwen3-235b-a22b", FAMILIES["qwen3_moe"].SIZES["235b_a22b"], parallel, rate=2e-4)


def deepseek_v3() -> Recipe:
    """DeepSeek-V3 in the layout of arXiv 2412.19437, section 3.2: pipeline 16 x data 128, expert 64 = 2,048 ranks."""
    # 61 layers, embedding and loss in 16 stages: three or four each. The last has two layers, and beside the loss the
    # layer of multi-token prediction.
    # In bf16 it does not fit as it is: the paper computes in FP8, and norms and latent projections once more.
    parallel = ParallelConfig(pipeline=16, stages="balanced", data=128, expert=64, recompute=("layer",))
    return _from_scratch("deepseek-v3", FAMILIES["deepseek_v3"].SIZES["671b_a37b"], parallel, rate=2.2e-4)


def gpt_oss_120b() -> Recipe:
    """gpt-oss 120B: data 512, all of it in shards, expert 32 = 512 ranks."""
    parallel = ParallelConfig(data=512, sharding="full", expert=32, recompute=("attention_core",))
    return _from_scratch("gpt-oss-120b", FAMILIES["gpt_oss"].SIZES["120b"], parallel, rate=2e-4)


def qwen2_7b() -> Recipe:
    """Qwen2 7B: data 128, all of it in shards = 128 ranks."""
    return _from_scratch("qwen2-7b", FAMILIES["qwen2"].SIZES["7b"], _two_sequences_sharded(128), rate=3e-4)


def qwen2_57b_a14b() -> Recipe:
    """Qwen2 57B-A14B: data 256, all of it in shards = 256 ranks, each with every expert of a layer in its turn."""
    parallel = ParallelConfig(data=256, sharding="full", recompute=("experts",), micro_batch_sequences=4)
    return _from_scratch("qwen2-57b-a14b", FAMILIES["qwen2_moe"].SIZES["57b_a14b"], parallel, rate=3e-4)


def phi4_14b() -> Recipe:
    """Phi-4 14B: data 128, all of it in shards = 128 ranks; peak rate of arXiv 2412.08905."""
    return _from_scratch("phi4-14b", FAMILIES["phi3"].SIZES["4_14b"], _two_sequences_sharded(128), rate=3e-4)


def ministral_8b() -> Recipe:
    """Ministral 8B: data 128, all of it in shards = 128 ranks."""
    return _from_scratch("ministral-8b", FAMILIES["ministral"].SIZES["8b"], _two_sequences_sharded(128), rate=3e-4)


def seed_oss_36b() -> Recipe:
    """Seed-OSS 36B: data 256, all of it in shards = 256 ranks."""
    parallel = ParallelConfig(data=256, sharding="full", recompute=("norms",))
    return _from_scratch("seed-oss-36b", FAMILIES["seed_oss"].SIZES["36b"], parallel, rate=2e-4)


def smollm3_3b() -> Recipe:
    """SmolLM3 3B: data 64, all of it in shards = 64 ranks."""
    return _from_scratch("smollm3-3b", FAMILIES["smollm3"].SIZES["3b"], _two_sequences_sharded(64), rate=2e-4)


def glm4_9b() -> Recipe:
    """GLM-4 9B, the model type `glm`: data 128, all of it in shards = 128 ranks."""
    return _from_scratch("glm4-9b", FAMILIES["glm"].SIZES["4_9b"], _two_sequences_sharded(128), rate=3e-4)


def glm4_32b() -> Recipe:
    """GLM-4 32B, the model type `glm4`: data 256, all of it in shards = 256 ranks."""
    return _from_scratch(
        "glm4-32b", FAMILIES["glm4"].SIZES["32b"], ParallelConfig(data=256, sharding="full"), rate=2e-4
    )


def glm4_5_355b_a32b() -> Recipe:
    """GLM-4.5 355B-A32B: tensor 2 x data 512, all of it in shards, expert 32 = 1,024 ranks."""
    parallel = ParallelConfig(tensor=2, sequence=True, data=512, sharding="full", expert=32, recompute=("norms",))
    return _from_scratch("glm4-5-355b-a32b", FAMILIES["glm4_moe"].SIZES["355b_a32b"], parallel, rate=2e-4)


def olmo2_7b() -> Recipe:
    """OLMo 2 7B: data 128, all of it in shards = 128 ranks; peak rate of arXiv 2501.00656."""
    return _from_scratch("olmo2-7b", FAMILIES["olmo2"].SIZES["7b"], _two_sequences_sharded(128), rate=3e-4)


def olmo3_7b() -> Recipe:
    """Olmo 3 7B: data 128, all of it in shards = 128 ranks."""
    return _from_scratch("olmo3-7b", FAMILIES["olmo3"].SIZES["7b"], _two_sequences_sharded(128), rate=3e-4)


def gemma3_12b() -> Recipe:
    """Gemma 3 12B: data 128, all of it in shards = 128 ranks; its 262,208 tokens take the memory of a sequence."""
    return _from_scratch(
        "gemma3-12b", FAMILIES["gemma3_text"].SIZES["12b"], ParallelConfig(data=128, sharding="full"), rate=3e-4
    )


def granite3_8b() -> Recipe:
    """Granite 3 8B: data 128, all of it in shards = 128 ranks."""
    return _from_scratch("granite3-8b", FAMILIES["granite"].SIZES["3_8b"], _two_sequences_sharded(128), rate=3e-4)


def deepseek_v2() -> Recipe:
    """DeepSeek-V2 236B-A21B: tensor 2 x pipeline 4 x data 128, expert 32 = 1,024 ranks.

    Its peak rate is that of arXiv 2405.04434, section 3.1.2.
    """
    parallel = ParallelConfig(
        tensor=2, sequence=True, pipeline=4, virtual_stages=15, data=128, expert=32, recompute=("feed_forward",)
    )
    return _from_scratch("deepseek-v2", FAMILIES["deepseek_v2"].SIZES["236b_a21b"], parallel, rate=2.4e-4)


def kimi_k2() -> Recipe:
    """Kimi K2 1T-A32B: tensor 2 x data 1,024, all of it in shards, expert 128 = 2,048 ranks."""
    parallel = ParallelConfig(tensor=2, sequence=True, data=1024, sharding="full", expert=128)
    return _from_scratch("kimi-k2", FAMILIES["kimi_k2"].SIZES["1t_a32b"], parallel, rate=2e-4)


def _two_sequences_sharded(ranks: int) -> ParallelConfig:
    """What `mai plan --search` puts first, or within two hundredths of it, for dense models of 3 to 14 billion."""
    return ParallelConfig(data=ranks, sharding="full", micro_batch_sequences=2)


def _from_scratch(name: str, model: ModelConfig, parallel: ParallelConfig, *, rate: float) -> Recipe:
    """About 4 million tokens of 4,096 a step, in whole rounds of the pipeline; a trillion in all."""
    length, copies = 4096, parallel.data or 1
    round_sequences = copies * parallel.pipeline * parallel.micro_batch_sequences
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
