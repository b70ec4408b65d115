"""The report's numbers agree with each other, and text and page show the same ones."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import cache
from html import unescape
from typing import Any

import pytest

from mai.hardware.cluster import load_cluster
from mai.model.flops import flops_per_token
from mai.plan.model.architecture import of_model
from mai.plan.model.model_flops import whole_square_flops_per_token
from mai.plan.report.plan_report import report
from mai.plan.report.scaling import scaling
from mai.plan.setting.of_recipe import setting_of, within
from mai.plan.software import load_software
from mai.plan.telling import plan_lines
from mai.plan.telling.plan_page import page
from mai.recipe import load, override
from tests.unit.recipe.samples import small


@cache
def found(name: str = "mai1_500b", cluster: str = "h100", gpus: int = 15_000, *overrides: str) -> dict[str, Any]:
    recipe = within(override.apply(load.find(name)(), overrides), load_cluster(cluster), gpus)
    return report(recipe, setting_of(recipe, load_cluster(cluster), load_software("mai")), gpus=gpus)


def line(name: str, lines: list[str]) -> str:
    return next(each for each in lines if each.startswith(name))


def test_items_make_their_sums() -> None:
    step, memory = found()["step"], found()["memory"]
    assert sum(step["items_seconds"].values()) == pytest.approx(step["seconds"])
    for stage in memory["stages"]:
        assert sum(stage["items_bytes"].values()) == stage["allocated_bytes"]
        assert stage["allocated_bytes"] + stage["outside_bytes"] == stage["needed_bytes"]
    assert len(memory["stages"]) == len(step["stages"]) == found()["layout"]["pipeline"]
    largest = max(memory["stages"], key=lambda stage: stage["needed_bytes"])
    assert memory["stages"][memory["largest_stage"]] == largest


def test_speed_and_costs_follow_from_the_step() -> None:
    speed, phase, gpus = found()["speed"], found()["phase"], found()["gpus"]
    recipe = load.find("mai1_500b")()
    seconds = found()["step"]["seconds"]
    assert gpus == {"booked": 15_000, "in_use": 14_976, "spares": 24, "most_data": 36}
    assert speed["tokens_per_second"] == pytest.approx(recipe.train.batch_tokens / seconds)
    assert phase["days"] == pytest.approx(recipe.train.steps * seconds / 86_400)
    assert phase["gpu_hours"] == pytest.approx(phase["days"] * 24 * 15_000)
    assert phase["money"] == pytest.approx(phase["gpu_hours"] * 2.35)
    assert phase["per_million_tokens"]["money"] * phase["tokens"] / 1e6 == pytest.approx(phase["money"])
    rate = flops_per_token(recipe.model, 8192) * speed["tokens_per_second_per_gpu"]
    assert speed["utilisation"] == pytest.approx(rate / 989e12)


def test_full_attention_counts_the_half_that_a_causal_one_leaves_out() -> None:
    speed, model = found()["speed"], load.find("mai1_500b")().model
    # PaLM's 12 L H Q T instead of 6 (arXiv 2204.02311, appendix B).
    more = 6 * model.num_layers * model.num_heads * model.head_size * 8192
    share = more * speed["tokens_per_second_per_gpu"] / 989e12
    assert speed["utilisation_of_full_attention"] - speed["utilisation"] == pytest.approx(share)


def test_full_attention_takes_no_account_of_windows() -> None:
    recipe = load.find("mistral_7b")()
    speed = found("mistral_7b", "h100", 1024, "model.window=1024")["speed"]
    whole = whole_square_flops_per_token(of_model(recipe.model), recipe.data.sequence_length)
    share = whole * speed["tokens_per_second_per_gpu"] / 989e12
    assert speed["utilisation_of_full_attention"] == pytest.approx(share)


def test_json_can_be_written_and_text_shows_its_numbers() -> None:
    values = json.loads(json.dumps(found()))
    lines = list(plan_lines.lines(values))
    assert lines[0] == "mai1-500b on h100: 14,976 GPUs of 15,000, 24 spares"
    assert f"{values['step']['seconds']:.3f} s" in line("time of a step", lines)
    assert f"{values['speed']['tokens_per_second']:,.0f} a second" in line("tokens  ", lines)
    assert f"{100 * values['speed']['utilisation']:.1f}%" in line("utilisation", lines)
    needed = values["memory"]["stages"][values["memory"]["largest_stage"]]["needed_bytes"]
    assert f"{needed / 2**30:.2f}" in line("all  ", lines)


def test_page_shows_the_numbers_of_the_text() -> None:
    recipe = load.find("mai1_500b")()
    setting = setting_of(recipe, load_cluster("h100"), load_software("mai"))
    command = "mai plan mai1_500b --hardware h100"
    html = unescape(page(found(), scaling(recipe, setting), command=command, day=date(2026, 11, 26)))
    for told in [
        plan_lines.fit(found()["memory"]),
        plan_lines.trust(found()["step"]),
        plan_lines.utilisation(found()),
        *plan_lines.notes(found()),
        command,
        "2026-11-26",
        found()["fingerprint"],
        "the whole step, of which it is 8.4%, 0.630 s",
        "budget: 15,000",
    ]:
        assert told in html
    for cells in plan_lines.costs(found()):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in html


def test_unknown_is_said_and_never_0() -> None:
    values = found("mai1_500b", "b200")
    assert values["phase"]["money"] is None
    assert values["phase"]["energy_kilowatt_hours"] is None
    rows = {name: cells for name, *cells in plan_lines.costs(values)}
    assert rows["money"] == rows["energy"] == rows["carbon dioxide"] == ["unknown", "unknown"]
    assert plan_lines.trust({**values["step"], "measured": None}) == "error: not measured for mai/bf16/dense/b200"
    no_memory = {**values["memory"], "fits": True, "usable_bytes": None}
    assert plan_lines.fit(no_memory).startswith("may fit: ")
    assert plan_lines.fit(no_memory).endswith("how much of them a process gets is unknown")


def test_a_peak_that_is_not_stated_leaves_utilisation_unknown() -> None:
    recipe = within(small(), load_cluster("h100"), 8)  # in fp32
    values = report(recipe, setting_of(recipe, load_cluster("h100"), load_software("mai")), gpus=8)
    assert values["speed"]["utilisation"] is None
    assert plan_lines.utilisation(values).startswith("unknown: ")


def test_what_does_not_fit_is_said_with_the_stage_and_by_how_much() -> None:
    stages = [{"stage": number, "needed_bytes": size * 2**30} for number, size in enumerate([90, 84, 70])]
    most = 80 * 2**30
    memory = {"fits": False, "usable_bytes": most, "most_bytes": most, "largest_stage": 0, "stages": stages}
    assert plan_lines.fit(memory) == (
        "DOES NOT FIT: the largest rank, of stage 0, needs 90.00 GiB, 10.00 more than the 80.00 GiB there are; "
        "2 of 3 stages need too much"
    )
    assert "more than the 80.00 GiB that the GPU is sold with" in plan_lines.fit({**memory, "usable_bytes": None})


MISFIT = {"parallel.data": "32", "parallel.micro_batch_sequences": "8", "evaluate.sequences": "256"}


def misfit(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Eight sequences of Llama 3 8B at once, or what the overrides make of it."""
    words = MISFIT | dict(word.split("=") for word in overrides)
    return found("llama3_8b", "h100", 64, *(f"{path}={value}" for path, value in words.items()))


def test_what_would_help_can_be_added_to_the_command_and_does_what_it_says() -> None:
    values = misfit()
    assert not values["memory"]["fits"]
    helps = [mend for mend in values["mends"] if mend["fits"]]
    assert helps
    for mend in helps:
        changed = misfit(mend["overrides"])
        assert changed["memory"]["fits"]
        assert changed["mends"] == []
        assert changed["step"]["seconds"] == pytest.approx(mend["slowdown"] * values["step"]["seconds"])
        words = " ".join(mend["overrides"])
        assert line(words, list(plan_lines.lines(values))).removeprefix(words).split()[1:3] == ["yes", "x"]


def test_where_nothing_helps_that_is_said() -> None:
    values = misfit()
    (told,) = plan_lines.no_mend({**values, "mends": []})
    assert told == "no single change of the layout on these GPUs frees memory; --search ranks other layouts"
    assert told in list(plan_lines.lines({**values, "mends": []}))
    too_little = [mend for mend in values["mends"] if not mend["fits"]]
    assert list(plan_lines.no_mend({**values, "mends": too_little})) == [
        "none of these frees enough; --search ranks other layouts"
    ]
    assert list(plan_lines.no_mend(values)) == []


def test_a_cluster_that_says_its_nodes_is_booked_with_the_spare_ones() -> None:
    recipe = load.find("mai1_500b")()
    ours = replace(load_cluster("h100"), nodes=1900, spare_nodes=20)
    values = report(recipe, setting_of(recipe, ours, load_software("mai")))
    assert values["gpus"] == {"booked": 15_200, "in_use": 14_976, "spares": 224, "most_data": 36}
    assert values["phase"]["gpu_hours"] == pytest.approx(values["phase"]["days"] * 24 * 15_200)
    assert next(plan_lines.lines(values)) == "mai1-500b on h100: 14,976 GPUs of 15,200, 224 spares"


def test_room_for_more_copies_is_said_with_what_uses_it() -> None:
    assert list(plan_lines.idle_copies(found())) == []
    values = found("mai1_500b", "h100", 15_000, "parallel.data=18")
    assert list(plan_lines.idle_copies(values)) == ["parallel.data=none uses them: 36 data ranks instead of 18"]
    assert found("mai1_500b", "h100", 15_000, "parallel.data=none")["layout"]["data"] == 36


def test_electricity_is_in_the_money_only_where_money_is_known() -> None:
    priced = {**found()["cluster"], "price": {**found()["cluster"]["price"], "kilowatt_hour": 0.1}}
    told = line("electricity", list(plan_lines.notes({**found(), "cluster": priced})))
    assert told == "electricity: 0.1 USD a kWh, in the money above"
    no_money = {**found()["phase"], "money": None}
    assert "in no sum" in line("electricity", list(plan_lines.notes({**found(), "cluster": priced, "phase": no_money})))


def test_an_item_that_would_be_shown_as_zeros_is_left_out() -> None:
    assert 0 < found()["step"]["items_seconds"]["optimizer"] < 0.0005
    assert not [told for told in plan_lines.lines(found()) if told.startswith("optimizer ") and told.endswith("%")]


def test_of_many_stages_the_ends_and_the_largest_are_shown() -> None:
    memory = found()["memory"]
    shown = [stage["stage"] for stage in plan_lines.shown_stages({**memory, "largest_stage": 7})]
    assert shown == [0, 7, 25]
    few = {**memory, "stages": memory["stages"][:4], "largest_stage": 1}
    assert len(plan_lines.shown_stages(few)) == 4


def test_a_band_that_was_measured_is_shown() -> None:
    measured = {"rows": 12, "low": 0.9, "high": 1.1, "of": "theirs", "between_seconds": [9.0, 11.0]}
    step = {**found()["step"], "kind": "mai/bf16/dense/h100", "measured": measured}
    told = "error: 9.000 s to 11.000 s, as eight of ten of 12 measured runs lay around their prediction (theirs)"
    assert plan_lines.trust(step) == told


def test_experts_say_how_evenly_they_are_used() -> None:
    assert not [told for told in plan_lines.lines(found()) if told.startswith("experts")]
    told = line("experts", list(plan_lines.lines({**found("mai1_500b_moe"), "imbalance": 1.3})))
    assert told == "experts      the busiest rank gets 1.3 times the mean"
    assert "--imbalance" in line("experts", list(plan_lines.lines(found("mai1_500b_moe"))))


def test_what_is_computed_again_and_shared_out_stands_with_the_layout() -> None:
    values = {
        **found(),
        "layout": {"tensor": 2, "data": 4},
        "sharding": "full",
        "recompute": ["attention_core", "norms"],
    }
    assert plan_lines.axes(values) == "tensor 2 x data 4, full sharding; computed again: attention core, norms"


def test_a_phase_that_continues_a_run_says_so() -> None:
    recipe = small()
    recipe = replace(recipe, checkpoint=replace(recipe.checkpoint, start_from="runs/first"))
    recipe = within(recipe, load_cluster("h100"), 8)
    values = report(recipe, setting_of(recipe, load_cluster("h100"), load_software("mai")))
    assert "20 steps of 512 tokens, after runs/first" in list(plan_lines.lines(values))
