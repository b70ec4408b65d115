from dataclasses import replace

import pytest

from mai.hardware.cluster import load_cluster
from mai.model.families import llama
from mai.parallel.layout import Layout
from mai.plan.model.architecture import of_model
from mai.plan.setting.setting import Setting
from mai.plan.software import load_software
from mai.plan.time.pass_time import Passes
from mai.plan.time.step_time import step_time
from mai.recipe import ParallelConfig
from recipes.pretrain.mai1_500b_moe import mai1_500b_moe

DENSE = of_model(llama.SIZES["8b"])
EXPERTS = of_model(mai1_500b_moe().model)


def setting(architecture=DENSE, *, micro_batches: int = 8, software: str = "mai", **parallel: object) -> Setting:  # type: ignore[no-untyped-def]
    return Setting(
        architecture=architecture,
        parallel=ParallelConfig(**{"data": 8, **parallel}),  # type: ignore[arg-type]
        sequence_length=8192,
        num_micro_batches=micro_batches,
        precision="bf16",
        software=load_software(software),
        cluster=load_cluster("h100"),
        kept_bytes=12,
    )


def test_the_items_are_the_step() -> None:
    time = step_time(setting(tensor=2, sequence=True, pipeline=4, virtual_stages=2))
    assert time.seconds == pytest.approx(sum(time.items_seconds.values()))
    assert {"products", "attention", "memory", "tensor", "pipeline", "bubble", "optimizer"} <= time.items_seconds.keys()


def test_the_bubble_of_equal_stages_is_that_of_the_formula() -> None:
    # (p - 1) / (m * v) of the time that micro-batches take: arXiv 2104.04473, section 2.2.
    # Without output layer, and sends that take no time.
    alike = replace(DENSE, vocabulary=128)
    for virtual_stages in (1, 2):
        of = setting(alike, pipeline=4, virtual_stages=virtual_stages, micro_batches=16)
        out = replace(of.cluster.scale_out, gb_per_second=1e9, latency_microseconds=1e-9)
        time = step_time(replace(of, cluster=replace(of.cluster, scale_out=out)))
        busy = 16 * time.stages[time.slowest_stage].seconds
        assert time.items_seconds["bubble"] / busy == pytest.approx(3 / (16 * virtual_stages), rel=0.02)


def test_recomputed_layers_cost_one_more_forward_pass() -> None:
    plain, again = (step_time(setting(recompute=recompute)) for recompute in ((), ("layer",)))
    assert "recompute" not in plain.items_seconds
    layers = Passes(setting()).of_layer(DENSE.layers[0])
    assert again.items_seconds["recompute"] == pytest.approx(8 * 32 * layers.forward.seconds)


def test_a_recomputed_module_costs_less_than_the_layer() -> None:
    choices = ((), ("norms",), ("feed_forward",), ("layer",))
    of = [step_time(setting(recompute=recompute)).seconds for recompute in choices]
    assert of == sorted(of)
    assert len(set(of)) == 4


def test_tensor_ranks_halve_the_products_and_pay_for_transfers() -> None:
    one, two = step_time(setting()), step_time(setting(tensor=2, sequence=True))
    assert two.items_seconds["products"] == pytest.approx(one.items_seconds["products"] / 2, rel=0.05)
    assert "tensor" not in one.items_seconds
    assert two.items_seconds["tensor"] > 0


def test_context_ranks_outside_the_node_wait_for_keys() -> None:
    inside, outside = step_time(setting(context=2)), step_time(setting(tensor=8, sequence=True, context=2))
    assert outside.items_seconds["context"] / outside.seconds > inside.items_seconds["context"] / inside.seconds


def test_experts_far_apart_cost_more_than_in_one_node() -> None:
    near, far = (step_time(setting(EXPERTS, expert=expert, data=64)).items_seconds["expert"] for expert in (8, 64))
    assert far > 5 * near


def test_a_window_under_mai_costs_the_whole_square() -> None:
    windowed = of_model(replace(mai1_500b_moe().model, window=128))
    under_mai, elsewhere = (
        step_time(setting(windowed, expert=8, data=64, software=name)).items_seconds["attention"]
        for name in ("mai", "megatron_2024")
    )
    assert under_mai > 20 * elsewhere


def test_copies_that_share_out_everything_sum_what_each_has_summed() -> None:
    whole, hybrid = (
        replace(setting(sharding="full", data=64, sharding_ranks=ranks), sequence_length=256) for ranks in (None, 8)
    )
    layer = DENSE.layers[0]
    inside = Passes(replace(hybrid, parallel=replace(hybrid.parallel, data=8))).of_layer(layer)
    assert Passes(hybrid).of_layer(layer).backward.shards > inside.backward.shards
    assert Passes(whole).of_layer(layer).forward.shards > 0


def test_ranks_that_share_an_expert_gather_its_tokens() -> None:
    whole, shared = (
        step_time(setting(EXPERTS, expert=expert, expert_tensor=ranks, data=64)).items_seconds["expert"]
        for expert, ranks in ((8, 1), (4, 2))
    )
    assert shared > 1.2 * whole


def test_the_busiest_expert_rank_sets_the_pace() -> None:
    even = setting(EXPERTS, expert=8, data=64)
    busy = step_time(replace(even, imbalance=1.5))
    assert busy.items_seconds["expert"] == pytest.approx(1.5 * step_time(even).items_seconds["expert"])


def test_full_sharding_waits_where_a_layer_computes_less_than_it_gathers() -> None:
    large, small = (
        step_time(replace(setting(sharding="full", data=64), sequence_length=length)) for length in (8192, 256)
    )
    assert "shards" not in large.items_seconds
    assert small.items_seconds["shards"] > 0.1 * small.seconds


def test_copies_that_are_kept_equal_sum_their_shards_once_more() -> None:
    whole, hybrid = (step_time(setting(data=64, sharding_ranks=ranks, micro_batches=1)) for ranks in (None, 8))
    assert hybrid.items_seconds["optimizer"] == pytest.approx(8 * whole.items_seconds["optimizer"])
    assert Layout.of(ParallelConfig(data=64, sharding_ranks=8), 64).sharding_copies == 8


def test_short_work_waits_for_the_host() -> None:
    tiny = replace(setting(tensor=8, sequence=True), sequence_length=128)
    assert step_time(tiny).items_seconds["host"] > 0.5 * step_time(tiny).seconds


def test_an_attention_that_is_not_fused_moves_its_scores() -> None:
    fused, plain = (step_time(setting(software=name)).items_seconds["memory"] for name in ("mai", "megatron_2022"))
    assert plain > 3 * fused
