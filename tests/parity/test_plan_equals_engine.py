"""What the planner says that a rank holds, keeps and multiplies is what the running engine holds, keeps and multiplies,
counted operation by operation: for tiny shapes of every family, in every kind of layout, recomputed or not."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import pytest

from mai.parallel.layout import Layout, num_micro_batches
from mai.parallel.stages import Part, parts_of_stage
from mai.plan.activations import Cut, gather_buffer_bytes, kept_bytes_of_part
from mai.plan.architecture import Architecture, of_model
from mai.plan.software import load_software
from mai.plan.weights import Held, held
from mai.plan.work import Multiplication, of_layer, of_output
from mai.recipe import LatentAttention, ModelConfig, ParallelConfig, PrecisionConfig, Recipe, load, rules
from mai.recipe.parallel import Recomputed
from mai.recipe.shrink import shrink
from tests.parity.watched import Counted, watched
from tests.ranks import on_ranks

RECIPES = (
    "llama3_8b", "mistral_7b", "qwen3_8b", "mixtral_8x7b", "qwen3_235b_a22b", "deepseek_v3", "gpt_oss_120b",
    "mai_base_1", "experts_every_axis",
)  # fmt: skip
"""One of every family, and the kinds of layers that no family has."""

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
    if model == "tied":
        llama = load.find("llama3_8b")()
        return replace(llama, model=replace(llama.model, tied_embeddings=True))
    if model == "whole queries, two depths":
        deepseek = load.find("deepseek_v3")()
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
    models = (*RECIPES, "tied", "whole queries, two depths")
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
    yield from (Case(model, layout) for layout in ("sequence", "context 2") for model in ("qwen3_8b", *sparse))
    yield from (Case(model, layout) for layout in ("full sharding", "pipeline 2") for model in (*dense, "deepseek_v3"))
    yield from (Case(model, "expert tensor 2") for model in sparse if model != "gpt_oss_120b")
    yield from (Case(model, "expert 2") for model in sparse)
    yield from (Case(model, "virtual 2") for model in ("llama3_8b", "deepseek_v3"))
    yield from (Case(model, "data 2", compute=compute) for model in dense for compute in ("bf16", "fp32"))
    yield Case("deepseek_v3", "sequence", ("layer",))
    yield Case("deepseek_v3", "sequence", ("norms", "attention_core", "experts"))
    yield Case("llama3_8b", "context 2", ("attention_core",))


CASES = list(_cases())


@pytest.fixture(scope="module")
def counted() -> Mapping[Case, list[Counted]]:
    """By rank; all layouts of one size in one set of processes."""
    found: dict[Case, list[Counted]] = {}
    for ranks in (1, 2):
        recipes = {case: case.recipe for case in CASES if (case.layout != "one rank") == (ranks == 2)}
        answers = on_ranks(ranks, watched, recipes)
        found |= {case: [answer[case] for answer in answers] for case in recipes}
    return found


class Rank:
    """What the planner says of one."""

    def __init__(self, recipe: Recipe, number: int, of_ranks: list[Counted]) -> None:
        self.recipe, self.parallel = recipe, recipe.parallel
        self.layout = Layout.of(self.parallel, len(of_ranks))
        self.architecture = of_model(recipe.model)
        stage = self.layout.coordinates(number).pipeline
        self.parts = parts_of_stage(recipe.model.num_layers, self.parallel, stage)
        self.element_bytes = 2 if recipe.precision.compute == "bf16" else 4
        rows = [counted.flops["grouped_product"] for counted in of_ranks]
        self.cut = Cut(
            sequences=self.parallel.micro_batch_sequences,
            length=recipe.data.sequence_length,
            element_bytes=self.element_bytes,
            context=self.layout.context,
            tensor=self.layout.tensor,
            sequence=self.parallel.sequence,
            expert=self.layout.expert,
            expert_tensor=self.layout.expert_tensor,
            # As its router spreads them.
            imbalance=rows[number] * len(rows) / sum(rows) if self.parallel.expert > 1 else 1.0,
        )

    def kept_bytes(self) -> list[int]:
        keeps_logits = self.parallel.sharding == "full"
        return [
            kept_bytes_of_part(
                self.architecture, part, self.cut, self.parallel.recompute, keeps_logits=keeps_logits
            )
            for part in self.parts
        ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_stage_keeps_what_the_planner_says(case: Case, counted: Mapping[Case, list[Counted]]) -> None:
    for number, found in enumerate(counted[case]):
        rank = Rank(case.recipe, number, counted[case])
        assert rank.kept_bytes() == pytest.approx(found.kept_bytes, rel=0.01)
        buffers = [gather_buffer_bytes(rank.architecture, part, rank.cut) for part in rank.parts]
        assert max(buffers) == found.buffer_bytes
