"""What the planner says that a rank holds, keeps and multiplies is what the running engine holds, keeps and multiplies,
counted operation by operation: for tiny shapes of every family, in every kind of layout, recomputed or not."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from mai.hardware.cluster import load_cluster
from mai.model.families.choose_family import FAMILIES
from mai.model.flops import flops_per_token
from mai.optimizer.optimizers import checkpoint_bytes, optimizer_of
from mai.parallel.layout import Layout, num_micro_batches
from mai.parallel.stages import VirtualStage
from mai.plan.memory.memory import rank_memory
from mai.plan.model.activations import Cut
from mai.plan.model.architecture import Layer, of_model
from mai.plan.model.virtual_stage_activations import gather_buffer_bytes, kept_bytes_of_virtual_stage
from mai.plan.model.weights import table_bytes
from mai.plan.model.work import Multiplication, Work, of_depth, of_layer, of_output, recomputed
from mai.plan.setting.setting import Setting
from mai.plan.software import load_software
from mai.recipe import (
    DenseFeedForward,
    LatentAttention,
    ModelConfig,
    ParallelConfig,
    PrecisionConfig,
    Recipe,
    load,
    rules,
)
from mai.recipe.parallel import Recomputed
from mai.recipe.shrink import shrink
from tests.parity.watched import Counted, watched
from tests.ranks import on_ranks

RECIPES = (
    "llama3_8b", "mistral_7b", "qwen3_8b", "mixtral_8x7b", "qwen3_235b_a22b", "deepseek_v3", "gpt_oss_120b",
    "mai_base_1", "experts_every_axis",
)  # fmt: skip
"""One of every family, and the kinds of layers that no family has."""

OF_FAMILIES = (
    "olmo2 32b",
    "gemma3_text 12b",
    "granite 3_8b",
    "glm4 32b",
    "qwen2_moe 57b_a14b",
    "deepseek_v2 236b_a21b",
)
"""Whose layers have parts that no recipe of ours has: norms behind, norms of all heads, factors, gates."""

LAYOUTS = {
    "one rank": ParallelConfig(data=1),
    "data 2": ParallelConfig(data=2),
    "full sharding": ParallelConfig(data=2, sharding="full"),
    "tensor 2": ParallelConfig(tensor=2, data=1),
    "sequence": ParallelConfig(tensor=2, sequence=True, data=1),
    "expert tensor 2": ParallelConfig(tensor=2, sequence=True, expert_tensor=2, data=1),
    "expert 2": ParallelConfig(expert=2, data=2),
    "context 2": ParallelConfig(context=2, data=1),
    "pipeline 2": ParallelConfig(pipeline=2, data=1),
    "virtual 2": ParallelConfig(pipeline=2, virtual_stages=2, stages="E|tt|t|tL", data=1),
}


ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    "bmm",  # where it is computed step by step
)


class Case(NamedTuple):
    model: str
    layout: str = "one rank"
    recompute: tuple[Recomputed, ...] = ()
    compute: str = "bf16"

    @property
    def recipe(self) -> Recipe:
        """Shrunk, with as few micro-batches as its pipeline takes."""
        parallel = replace(LAYOUTS[self.layout], recompute=self.recompute, micro_batch_sequences=4)
        tiny = shrink(replace(_recipe_with(self.model), parallel=parallel))
        assert parallel.data is not None
        sequences = parallel.micro_batch_sequences * parallel.data * parallel.pipeline
        recipe = replace(
            tiny,
            model=_with_values_as_wide_as_keys(tiny.model),
            parallel=parallel,
            precision=PrecisionConfig(compute=self.compute),  # type: ignore[arg-type]
            train=replace(tiny.train, batch_tokens=sequences * tiny.data.sequence_length),
            evaluate=replace(tiny.evaluate, sequences=sequences),
        )
        rules.check(recipe)
        return recipe


def _recipe_with(model: str) -> Recipe:
    """Some that no recipe has."""
    if model in OF_FAMILIES:
        family, _, size = model.partition(" ")
        return replace(load.find("llama3_8b")(), model=FAMILIES[family].SIZES[size])
    if model == "tied":
        llama = load.find("llama3_8b")()
        return replace(llama, model=replace(llama.model, tied_embeddings=True))
    deepseek = load.find("deepseek_v3")()
    if model == "latent, dense":
        return replace(deepseek, model=replace(deepseek.model, feed_forward=DenseFeedForward()))
    if model == "whole queries, two depths":
        attention = replace(deepseek.model.attention, query_rank=None)  # type: ignore[type-var]
        return replace(deepseek, model=replace(deepseek.model, attention=attention, multi_token_depths=2))
    return load.find(model)()


def _with_values_as_wide_as_keys(model: ModelConfig) -> ModelConfig:
    """A CPU has no fused kernel for others; GPUs have."""
    if not isinstance(model.attention, LatentAttention):
        return model
    key_size = model.head_size + model.attention.rotary_head_size
    return replace(model, attention=replace(model.attention, value_head_size=key_size))


def _cases() -> Iterable[Case]:
    models = (*RECIPES, "tied", "latent, dense", "whole queries, two depths", *OF_FAMILIES)
    yield from (Case(model) for model in models)
    yield from (Case(model, compute="fp32") for model in ("qwen3_8b", "mixtral_8x7b", "deepseek_v3", "gpt_oss_120b"))
    for recompute in (("layer",), ("norms",), ("attention_core",), ("feed_forward",), ("norms", "feed_forward")):
        yield Case("llama3_8b", recompute=recompute)  # type: ignore[arg-type]
    for recompute in (("layer",), ("norms", "attention_core"), ("experts",), ("shared_experts",), ("norms", "experts")):
        yield Case("deepseek_v3", recompute=recompute)  # type: ignore[arg-type]
    for recompute in (("layer",), ("norms",), ("experts",)):
        yield Case("mixtral_8x7b", recompute=recompute)  # type: ignore[arg-type]
    yield Case("gpt_oss_120b", recompute=("norms", "attention_core"))
    dense = ("llama3_8b", "tied")
    sparse = ("mixtral_8x7b", "deepseek_v3", "gpt_oss_120b", "mai_base_1")
    yield from (Case(model, "tensor 2") for model in (*dense, "mistral_7b", "qwen3_8b"))
    yield from (
        Case(model, layout) for layout in ("sequence", "context 2") for model in ("qwen3_8b", "latent, dense", *sparse)
    )
    yield from (Case(model, layout) for layout in ("full sharding", "pipeline 2") for model in (*dense, "deepseek_v3"))
    yield from (Case(model, "expert tensor 2") for model in sparse if model != "gpt_oss_120b")
    yield from (Case(model, "expert 2") for model in sparse)
    yield from (Case(model, "virtual 2") for model in ("llama3_8b", "deepseek_v3"))
    yield from (Case(model, "data 2", compute=compute) for model in dense for compute in ("bf16", "fp32"))
    yield Case("deepseek_v3", "sequence", ("layer",))
    yield Case("deepseek_v3", "sequence", ("norms", "attention_core", "experts"))
    yield Case("llama3_8b", "context 2", ("attention_core",))
    yield from (Case(model, "sequence") for model in OF_FAMILIES)
    yield from (Case(model, compute="fp32") for model in ("olmo2 32b", "qwen2_moe 57b_a14b"))
    yield from (Case(model, "tensor 2") for model in ("olmo2 32b", "gemma3_text 12b"))
    yield from (Case(model, "full sharding") for model in ("olmo2 32b", "glm4 32b"))
    yield Case("gemma3_text 12b", "context 2")
    yield Case("gemma3_text 12b", recompute=("norms",))


CASES = list(_cases())
PEAKS = [
    *(Case(model) for model in ("llama3_8b", "mixtral_8x7b", "deepseek_v3", "gpt_oss_120b")),
    *(Case("llama3_8b", layout) for layout in ("tensor 2", "pipeline 2", "virtual 2")),
    *(Case("mixtral_8x7b", layout) for layout in ("sequence", "context 2", "expert 2")),
    Case("llama3_8b", recompute=("layer",)),
]
MISSED_PEAKS = {
    Case("mixtral_8x7b", "expert tensor 2"): "the sum over expert-tensor ranks in fp32 is not planned: 8.5% too little",
    Case("gpt_oss_120b", "sequence"): "what attention with sinks writes on its way is not planned: 3.2% too little",
    Case("deepseek_v3", recompute=("layer",)): "a recomputed further depth is planned as its layer: 4.3% too little",
    Case("llama3_8b", "full sharding"): "the largest units are planned to be gathered when most is kept: 5% too much",
}
"""What the planner does not yet say to within 2% below and 3% above."""


@pytest.fixture(scope="module")
def counted() -> Mapping[Case, list[Counted]]:
    """By rank; all layouts of one size in one set of processes."""
    found: dict[Case, list[Counted]] = {}
    for ranks in (1, 2):
        recipes = {case: case.recipe for case in CASES if (case.layout != "one rank") == (ranks == 2)}
        answers = on_ranks(ranks, watched, recipes, [*PEAKS, *MISSED_PEAKS])
        found |= {case: [answer[case] for answer in answers] for case in recipes}
    return found


def setting_of(case: Case, counted: list[Counted], rank: int) -> Setting:
    """What the planner is told, the balance of the run's own experts included."""
    recipe = case.recipe
    layout = Layout.of(recipe.parallel, len(counted))
    rows = [each.flops["grouped_product"] for each in counted]
    return Setting(
        architecture=of_model(recipe.model),
        parallel=recipe.parallel,
        sequence_length=recipe.data.sequence_length,
        num_micro_batches=num_micro_batches(recipe, layout),
        precision=recipe.precision.compute,
        software=load_software("mai"),
        cluster=load_cluster("h100"),
        kept_bytes=checkpoint_bytes(optimizer_of(recipe.optimizer)),
        imbalance=rows[rank] * len(rows) / sum(rows) if layout.expert > 1 else 1.0,
    )


def stages_of(case: Case, counted: Mapping[Case, list[Counted]]) -> Iterator[tuple[Setting, int, Counted]]:
    """Of every rank: what the planner is told, its stage, and what it did."""
    for rank, found in enumerate(counted[case]):
        setting = setting_of(case, counted[case], rank)
        yield setting, setting.layout.coordinates(rank).pipeline, found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rank_holds_what_the_planner_says(case: Case, counted: Mapping[Case, list[Counted]]) -> None:
    """Weights, sums of gradients, the optimizer's states, and tables of positions."""
    for setting, stage, found in stages_of(case, counted):
        items = rank_memory(setting, stage).items_bytes
        said = sum(items.get(item, 0) for item in ("weights", "gradients", "optimizer"))
        said += table_bytes(setting.architecture, setting.stages[stage], length=setting.sequence_length)
        # Megatron begins every parameter at a round place of its buffers.
        assert said == pytest.approx(found.held_bytes, rel=0.002)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_part_keeps_what_the_planner_says(case: Case, counted: Mapping[Case, list[Counted]]) -> None:
    for setting, stage, found in stages_of(case, counted):
        cut = setting.cut
        keeps_logits = setting.parallel.sharding == "full"
        said, buffers = [], []
        for virtual_stage in setting.stages[stage]:
            said.append(
                kept_bytes_of_virtual_stage(
                    setting.architecture, virtual_stage, cut, setting.parallel.recompute, keeps_logits=keeps_logits
                )
            )
            buffers.append(gather_buffer_bytes(setting.architecture, virtual_stage, cut))
        # Left out are the balancing loss's own numbers, and a context rank's copy of its tokens.
        is_rough = case.recipe.model.experts is not None or cut.context > 1
        assert said == pytest.approx(found.kept_bytes, rel=0.005 if is_rough else 2e-4)
        assert max(buffers) == found.buffer_bytes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rank_multiplies_what_the_planner_says(case: Case, counted: Mapping[Case, list[Counted]]) -> None:
    """Forward, backward, and once more what is recomputed."""
    for setting, stage, found in stages_of(case, counted):
        products, attention = 0.0, 0.0
        for virtual_stage in setting.stages[stage]:
            products += _of_ends(setting, virtual_stage)
            for layer in _layers(setting, virtual_stage):
                modules = of_layer(setting.architecture, layer, setting.cut)
                again = recomputed(modules, setting.parallel.recompute)
                for name, module in modules.items():
                    passes = 4 if name in again else 3
                    products += passes * sum(_flops(product, setting) for product in module.products)
                core = modules["attention_core"]
                attention += _attention_flops(layer, core, setting.cut, is_recomputed="attention_core" in again)
        kernels = sum(found.flops[kernel] for kernel in ATTENTION)
        assert setting.num_micro_batches * products == pytest.approx(found.flops.total() - kernels)
        assert setting.num_micro_batches * attention == pytest.approx(kernels)


def _layers(setting: Setting, virtual_stage: VirtualStage) -> Iterator[Layer]:
    layers, depths = setting.architecture.layers, setting.architecture.depths
    yield from (layers[number] for number in virtual_stage.layers)
    yield from layers[-1:] * (virtual_stage.has_loss * depths)


def _of_ends(setting: Setting, virtual_stage: VirtualStage) -> float:
    if not virtual_stage.has_loss:
        return 0.0
    architecture, cut = setting.architecture, setting.cut
    passes = 4 if "layer" in setting.parallel.recompute else 3
    of_depths = passes * of_depth(architecture, cut).flops * architecture.depths
    return 3 * of_output(architecture, cut).flops * (1 + architecture.depths) + of_depths


def _flops(product: Multiplication, setting: Setting) -> float:
    return product.flops * (setting.imbalance if product.is_grouped else 1)


def _attention_flops(layer: Layer, core: Work, cut: Cut, *, is_recomputed: bool) -> float:
    """The planner counts what a query sees. A CPU's kernels compute the rest of the square as well and hide it; those
    of context ranks, two rectangles of it."""
    attention, parts = layer.attention, 2 * cut.context
    sizes = attention.key_size + attention.value_size
    if attention.window is None:
        assert core.attention_flops == sizes * core.scores
    share = (1 if cut.context == 1 else (parts + 1) / (2 * parts)) + attention.has_sinks / cut.length
    # Step by step, as with sinks, the backward pass computes no scores again.
    passes = 1 + (2 if attention.has_sinks else 2.5) + is_recomputed
    return passes * 2 * sizes * core.scores * share


@pytest.mark.parametrize("case", [case for case in CASES if case.layout == "one rank" and not case.recompute], ids=str)
def test_a_step_of_one_rank_multiplies_its_model_flops(case: Case, counted: Mapping[Case, list[Counted]]) -> None:
    """All products, and of attention three times what the forward pass has of it in the convention."""
    recipe, (found,) = case.recipe, counted[case]
    setting = setting_of(case, [found], 0)
    (virtual_stage,) = setting.stages[0]
    cores = (
        of_layer(setting.architecture, layer, setting.cut)["attention_core"]
        for layer in _layers(setting, virtual_stage)
    )
    products = found.flops.total() - sum(found.flops[kernel] for kernel in ATTENTION)
    counted_flops = products + 3 * sum(core.attention_flops for core in cores)
    tokens = recipe.train.batch_tokens
    assert tokens * flops_per_token(recipe.model, recipe.data.sequence_length) == pytest.approx(counted_flops)


def _missed_peaks() -> list[Any]:
    return [
        pytest.param(case, marks=pytest.mark.xfail(reason=reason, strict=True)) for case, reason in MISSED_PEAKS.items()
    ]


@pytest.mark.parametrize("case", [*PEAKS, *_missed_peaks()], ids=str)
def test_a_step_needs_what_the_planner_says(case: Case, counted: Mapping[Case, list[Counted]]) -> None:
    """When most is there at once. Without the workspaces of a GPU's libraries."""
    for setting, stage, found in stages_of(case, counted):
        holds = replace(setting.software.holds, workspace_mib=0, expert_workspace_mib=0)
        on_a_cpu = replace(setting, software=replace(setting.software, holds=holds))
        assert found.peak_bytes is not None
        assert 0.98 <= rank_memory(on_a_cpu, stage).allocated_bytes / found.peak_bytes <= 1.03
