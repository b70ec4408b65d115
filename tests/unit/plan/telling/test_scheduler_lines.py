"""The lines show the numbers of the block, and say what is unknown."""

from dataclasses import replace
from functools import cache

from mai.hardware.cluster import Storage, load_cluster
from mai.plan.quantities import amount
from mai.plan.scheduler.scheduler_answers import SchedulerAnswers, answers
from mai.plan.setting.of_recipe import setting_of, within
from mai.plan.software import load_software
from mai.plan.telling import scheduler_lines
from mai.plan.time.step_time import step_time
from mai.recipe import load


@cache
def found(write_gb_per_second: float | None = None) -> SchedulerAnswers:
    cluster = replace(load_cluster("h100"), storage=Storage(write_gb_per_second=write_gb_per_second))
    recipe = within(load.find("llama3_8b")(), cluster, 128)
    setting = setting_of(recipe, cluster, load_software("mai"))
    return answers(recipe, setting, step_seconds=step_time(setting).seconds, gpus=128, gpus_booked=128)


def told(values: SchedulerAnswers, currency: str | None = "USD") -> str:
    return " ".join(" ".join(scheduler_lines.lines(values, currency=currency)).split())


def test_unknown_storage_is_named_with_the_key_that_is_missing() -> None:
    words = told(found())
    assert "grace unknown: the cluster states no storage.write_gb_per_second" in words
    assert "with grace unknown" in words


def test_sizes_grace_and_stops_are_those_of_the_block() -> None:
    values, words = found(10.0), told(found(10.0))
    fitting = [size.gpus for size in values.world_sizes if size.fits]
    assert f"train on {len(values.world_sizes)} numbers of GPUs, and fit on {len(fitting)} of them" in words
    assert f"from {fitting[0]} to {fitting[-1]}" in words
    assert f"grace {amount(values.grace.seconds, 's')} before the end" in words
    row = next(row for row in values.stopping.rows if row.minutes == 30)
    assert f"30 minutes after a save: {row.without_grace.cost.gpu_hours:.1f} GPU hours" in words
    assert "USD" not in told(values, currency=None)


def test_a_layout_that_fits_on_no_size_says_so() -> None:
    sizes = [replace(size, fits=False) for size in found().world_sizes]
    assert "and fit on none of them" in told(replace(found(), world_sizes=sizes))
