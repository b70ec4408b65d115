"""The report's numbers agree with each other, and text and page show the same ones."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import cache
from html import unescape

import pytest

from mai.hardware.cluster import load_cluster
from mai.model.flops import flops_per_token
from mai.parallel.layout import Layout
from mai.plan.memory.memory import Memory, RankMemory
from mai.plan.model.architecture import of_model
from mai.plan.model.model_flops import whole_square_flops_per_token
from mai.plan.report.plan_report import of_whole_run, report
from mai.plan.report.plan_values import Gpus, Plan, Step
from mai.plan.report.planned_run import planned_run
from mai.plan.report.scaling import scaling
from mai.plan.setting.of_recipe import setting_of, within
from mai.plan.software import load_software
from mai.plan.telling import plan_lines
from mai.plan.telling.plan_page import page
from mai.plan.time.trust import Band, Trust
from mai.recipe import load, override
from tests.unit.recipe.samples import small


@cache
def found(name: str = "mai1_500b", cluster: str = "h100", gpus: int = 15_000, *overrides: str) -> Plan:
    recipe = within(override.apply(load.find(name)(), overrides), load_cluster(cluster), gpus)
    return report(recipe, setting_of(recipe, load_cluster(cluster), load_software("mai")), gpus=gpus)


def line(name: str, lines: list[str]) -> str:
    return next(each for each in lines if each.startswith(name))


def test_items_make_their_sums() -> None:
    step, memory = found().step.time, found().memory
    assert sum(step.items_seconds.values()) == pytest.approx(step.seconds)
    for stage in memory.stages:
        assert sum(stage.items_bytes.values()) == stage.allocated_bytes
        assert stage.allocated_bytes + stage.outside_bytes == stage.needed_bytes
    assert len(memory.stages) == len(step.stages) == found().layout.pipeline
    largest = max(memory.stages, key=lambda stage: stage.needed_bytes)
    assert memory.stages[memory.largest_stage] == largest


def test_speed_and_costs_follow_from_the_step() -> None:
    speed, phase, gpus = found().speed, found().phase, found().gpus
    recipe = load.find("mai1_500b")()
    seconds = found().step.time.seconds
    assert gpus == Gpus(booked=15_000, in_use=14_976, spares=24, most_data=36)
    assert speed.tokens_per_second == pytest.approx(recipe.train.batch_tokens / seconds)
    assert phase.days == pytest.approx(recipe.train.steps * seconds / 86_400)
    assert phase.cost.gpu_hours == pytest.approx(phase.days * 24 * 15_000)
    assert phase.cost.money == pytest.approx(phase.cost.gpu_hours * 2.35)
    assert phase.per_million_tokens.money * phase.tokens / 1e6 == pytest.approx(phase.cost.money)
    rate = flops_per_token(recipe.model, 8192) * speed.tokens_per_second_per_gpu
    assert speed.utilisation == pytest.approx(rate / 989e12)


def test_full_attention_counts_the_half_that_a_causal_one_leaves_out() -> None:
    speed, model = found().speed, load.find("mai1_500b")().model
    # PaLM's 12 L H Q T instead of 6 (arXiv 2204.02311, appendix B).
    more = 6 * model.num_layers * model.num_heads * model.head_size * 8192
    share = more * speed.tokens_per_second_per_gpu / 989e12
    assert speed.utilisation_of_full_attention - speed.utilisation == pytest.approx(share)


def test_full_attention_takes_no_account_of_windows() -> None:
    recipe = load.find("mistral_7b")()
    speed = found("mistral_7b", "h100", 1024, "model.window=1024").speed
    whole = whole_square_flops_per_token(of_model(recipe.model), recipe.data.sequence_length)
    share = whole * speed.tokens_per_second_per_gpu / 989e12
    assert speed.utilisation_of_full_attention == pytest.approx(share)


def test_the_text_shows_the_numbers() -> None:
    values, lines = found(), list(plan_lines.lines(found()))
    assert lines[0] == "mai1-500b on h100: 14,976 GPUs of 15,000, 24 spares"
    assert f"{values.step.time.seconds:.3f} s" in line("time of a step", lines)
    assert f"{values.speed.tokens_per_second:,.0f} a second" in line("tokens  ", lines)
    assert f"{100 * values.speed.utilisation:.1f}%" in line("utilisation", lines)
    needed = values.memory.stages[values.memory.largest_stage].needed_bytes
    assert f"{needed / 2**30:.2f}" in line("all  ", lines)


def test_page_shows_the_numbers_of_the_text() -> None:
    recipe = load.find("mai1_500b")()
    setting = setting_of(recipe, load_cluster("h100"), load_software("mai"))
    command = "mai plan mai1_500b --hardware h100"
    html = unescape(page(found(), scaling(recipe, setting), command=command, day=date(2026, 11, 26)))
    for told in [
        plan_lines.fit(found().memory),
        plan_lines.trust(found().step),
        plan_lines.utilisation(found()),
        *plan_lines.notes(found()),
        command,
        "2026-11-26",
        found().fingerprint,
        "the whole step, of which it is 8.4%, 0.630 s",
        "budget: 15,000",
    ]:
        assert told in html
    for cells in plan_lines.costs(found()):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in html


def test_unknown_is_said_and_never_0() -> None:
    values = found("mai1_500b", "b200")
    assert values.phase.cost.money is None
    assert values.phase.cost.energy_kilowatt_hours is None
    rows = {name: cells for name, *cells in plan_lines.costs(values)}
    assert rows["money"] == rows["energy"] == rows["carbon dioxide"] == ["unknown", "unknown"]
    unmeasured = replace(values.step, measured=None)
    assert plan_lines.trust(unmeasured) == "error: not measured for mai/bf16/dense/b200"
    no_memory = replace(values.memory, fits=True, usable_bytes=None)
    assert plan_lines.fit(no_memory).startswith("may fit: ")
    assert plan_lines.fit(no_memory).endswith("how much of them a process gets is unknown")


def test_a_peak_that_is_not_stated_leaves_utilisation_unknown() -> None:
    recipe = within(small(), load_cluster("h100"), 8)  # in fp32
    values = report(recipe, setting_of(recipe, load_cluster("h100"), load_software("mai")), gpus=8)
    assert values.speed.utilisation is None
    assert plan_lines.utilisation(values).startswith("unknown: ")


def test_what_does_not_fit_is_said_with_the_stage_and_by_how_much() -> None:
    needed = [size * 2**30 for size in (90, 84, 70)]
    stages = tuple(RankMemory(number, {}, size, 0, size, 0) for number, size in enumerate(needed))
    most = 80 * 2**30
    memory = Memory(usable_bytes=most, most_bytes=most, fits=False, largest_stage=0, stages=stages)
    assert plan_lines.fit(memory) == (
        "DOES NOT FIT: the largest rank, of stage 0, needs 90.00 GiB, 10.00 more than the 80.00 GiB there are; "
        "2 of 3 stages need too much"
    )
    assert "more than the 80.00 GiB that the GPU is sold with" in plan_lines.fit(replace(memory, usable_bytes=None))


MISFIT = {"parallel.data": "32", "parallel.micro_batch_sequences": "8", "evaluate.sequences": "256"}


def misfit(overrides: Sequence[str] = ()) -> Plan:
    """Eight sequences of Llama 3 8B at once, or what the overrides make of it."""
    words = MISFIT | dict(word.split("=") for word in overrides)
    return found("llama3_8b", "h100", 64, *(f"{path}={value}" for path, value in words.items()))


def test_what_would_help_can_be_added_to_the_command_and_does_what_it_says() -> None:
    values = misfit()
    assert not values.memory.fits
    helps = [mend for mend in values.mends if mend.fits]
    assert helps
    for mend in helps:
        changed = misfit(mend.overrides)
        assert changed.memory.fits
        assert changed.mends == []
        assert changed.step.time.seconds == pytest.approx(mend.slowdown * values.step.time.seconds)
        words = " ".join(mend.overrides)
        assert line(words, list(plan_lines.lines(values))).removeprefix(words).split()[1:3] == ["yes", "x"]


def test_where_nothing_helps_that_is_said() -> None:
    values = misfit()
    (told,) = plan_lines.no_mend(replace(values, mends=[]))
    assert told == "no single change of the layout on these GPUs frees memory; --search ranks other layouts"
    assert told in list(plan_lines.lines(replace(values, mends=[])))
    too_little = [mend for mend in values.mends if not mend.fits]
    assert list(plan_lines.no_mend(replace(values, mends=too_little))) == [
        "none of these frees enough; --search ranks other layouts"
    ]
    assert list(plan_lines.no_mend(values)) == []


def test_a_cluster_that_says_its_nodes_is_booked_with_the_spare_ones() -> None:
    recipe = load.find("mai1_500b")()
    ours = replace(load_cluster("h100"), nodes=1900, spare_nodes=20)
    values = report(recipe, setting_of(recipe, ours, load_software("mai")))
    assert values.gpus == Gpus(booked=15_200, in_use=14_976, spares=224, most_data=36)
    assert values.phase.cost.gpu_hours == pytest.approx(values.phase.days * 24 * 15_200)
    assert next(plan_lines.lines(values)) == "mai1-500b on h100: 14,976 GPUs of 15,200, 224 spares"


def test_room_for_more_copies_is_said_with_what_uses_it() -> None:
    assert list(plan_lines.idle_copies(found())) == []
    values = found("mai1_500b", "h100", 15_000, "parallel.data=18")
    assert list(plan_lines.idle_copies(values)) == ["parallel.data=none uses them: 36 data ranks instead of 18"]
    assert found("mai1_500b", "h100", 15_000, "parallel.data=none").layout.data == 36


def test_electricity_is_in_the_money_only_where_money_is_known() -> None:
    price = found().cluster.price
    assert price is not None
    priced = replace(found(), cluster=replace(found().cluster, price=replace(price, kilowatt_hour=0.1)))
    told = line("electricity", list(plan_lines.notes(priced)))
    assert told == "electricity: 0.1 USD a kWh, in the money above"
    no_money = replace(priced.phase, cost=replace(priced.phase.cost, money=None))
    assert "in no sum" in line("electricity", list(plan_lines.notes(replace(priced, phase=no_money))))


def test_an_item_that_would_be_shown_as_zeros_is_left_out() -> None:
    assert 0 < found().step.time.items_seconds["optimizer"] < 0.0005
    assert not [told for told in plan_lines.lines(found()) if told.startswith("optimizer ") and told.endswith("%")]


def test_of_many_stages_the_ends_and_the_largest_are_shown() -> None:
    memory = found().memory
    shown = [stage.stage for stage in plan_lines.shown_stages(replace(memory, largest_stage=7))]
    assert shown == [0, 7, 25]
    few = replace(memory, stages=memory.stages[:4], largest_stage=1)
    assert len(plan_lines.shown_stages(few)) == 4


def test_a_band_that_was_measured_is_shown() -> None:
    measured = Trust(Band(rows=12, low=0.9, high=1.1, of="theirs"), between_seconds=(9.0, 11.0))
    step = Step(found().step.time, "mai/bf16/dense/h100", measured)
    told = "error: 9.000 s to 11.000 s, as eight of ten of 12 measured runs lay around their prediction (theirs)"
    assert plan_lines.trust(step) == told


def test_experts_say_how_evenly_they_are_used() -> None:
    assert not [told for told in plan_lines.lines(found()) if told.startswith("experts")]
    told = line("experts", list(plan_lines.lines(replace(found("mai1_500b_moe"), imbalance=1.3))))
    assert told == "experts      the busiest rank gets 1.3 times the mean"
    assert "--imbalance" in line("experts", list(plan_lines.lines(found("mai1_500b_moe"))))


def test_what_is_computed_again_and_shared_out_stands_with_the_layout() -> None:
    layout = Layout(tensor=2, pipeline=1, data=4)
    values = replace(found(), layout=layout, sharding="full", recompute=("attention_core", "norms"))
    told = "tensor 2 x pipeline 1 x data 4, full sharding; computed again: attention core, norms"
    assert plan_lines.axes(values) == told


def test_a_phase_that_continues_a_run_says_so() -> None:
    recipe = small()
    recipe = replace(recipe, checkpoint=replace(recipe.checkpoint, start_from="runs/first"))
    recipe = within(recipe, load_cluster("h100"), 8)
    values = report(recipe, setting_of(recipe, load_cluster("h100"), load_software("mai")))
    assert "20 steps of 512 tokens, after runs/first" in list(plan_lines.lines(values))


def test_the_run_that_goodput_is_of_is_the_plans_phase() -> None:
    plan = found()
    run = planned_run(plan, load_cluster("h100"))
    assert (run.gpus, run.spare_nodes, run.gpus_booked) == (14_976, 3, 15_000)
    assert (run.step_seconds, run.useful_seconds) == (plan.step.time.seconds, plan.phase.seconds)
    assert (run.save_seconds, run.load_seconds) == (None, None), "the cluster states no storage"
    assert run.save_interval_seconds == plan.scheduler.stopping.save_interval_seconds
    assert run.checkpoint_bytes == plan.disk.checkpoint_bytes
    assert (run.gpu_hour_price, run.currency) == (2.35, "USD")
    assert planned_run(of_whole_run([plan, plan]), load_cluster("h100")) == run, "of its phase alone"


def test_how_fast_storage_is_written_and_read_are_two_things() -> None:
    shipped = load_cluster("h100")
    cluster = replace(shipped, storage=replace(shipped.storage, write_gb_per_second=100.0, read_gb_per_second=200.0))
    recipe = within(load.find("mai1_500b")(), cluster, 15_000)
    plan = report(recipe, setting_of(recipe, cluster, load_software("mai")))
    run = planned_run(plan, cluster)
    assert run.save_seconds is not None
    assert run.load_seconds is not None
    assert run.save_seconds > run.load_seconds > 0


def test_what_is_unknown_of_a_phase_is_unknown_of_the_whole_run() -> None:
    first, last = found(), found("mai1_500b", "b200")
    whole = of_whole_run([first, last])
    assert whole.run is not None
    assert whole.run.tokens == first.phase.tokens + last.phase.tokens
    assert whole.run.cost.gpu_hours == first.phase.cost.gpu_hours + last.phase.cost.gpu_hours
    assert (first.phase.cost.money is None, last.phase.cost.money, whole.run.cost.money) == (False, None, None)
