"""More GPUs are faster, less so where the batch stays; and the plan itself is a point of both lines."""

from dataclasses import replace

from mai.hardware.cluster import load_cluster
from mai.plan.report.scaling import scaling
from mai.plan.setting.of_recipe import setting_of, within
from mai.plan.software import load_software
from mai.plan.time.step_time import step_time
from mai.recipe import ParallelConfig, Recipe
from recipes.pretrain.mai1_500b import mai1_500b

H100 = load_cluster("h100")
LAYOUT = ParallelConfig(tensor=8, sequence=True, pipeline=16, virtual_stages=2, data=117)


def of_16_stages() -> Recipe:
    return replace(mai1_500b(), parallel=LAYOUT)


def lines(recipe: Recipe) -> tuple[dict[int, float], dict[int, float]]:
    found = scaling(recipe, setting_of(recipe, H100, load_software("mai")))
    return tuple(
        {point.gpus: point.tokens_per_second for point in each} for each in (found.same_batch, found.same_share)
    )  # type: ignore[return-value]


def test_both_lines_meet_at_the_plan() -> None:
    recipe = of_16_stages()
    setting = setting_of(recipe, H100, load_software("mai"))
    speed = setting.tokens / step_time(setting).seconds
    same_batch, same_share = lines(recipe)
    assert same_batch[14_976] == same_share[14_976] == speed


def test_a_batch_that_stays_gains_less_from_more_gpus() -> None:
    base = of_16_stages()
    # Without virtual stages, and with four times as many micro-batches, there is something to share out.
    parallel = replace(base.parallel, virtual_stages=1, data=96)
    train, evaluate = replace(base.train, batch_tokens=64 * 96 * 8192), replace(base.evaluate, sequences=96)
    same_batch, same_share = lines(replace(base, parallel=parallel, train=train, evaluate=evaluate))
    twice = 2 * 8 * 16 * 96
    assert same_batch[twice] < same_share[twice]
    assert list(same_batch) == sorted(same_batch)
    assert sorted(same_batch.values()) == list(same_batch.values())


def test_only_what_mai_trains_is_a_point() -> None:
    same_batch, _ = lines(of_16_stages())
    # 1,872 sequences on more than 117 copies are fewer micro-batches than 16 stages.
    assert max(same_batch) == 14_976
    recipe = within(replace(mai1_500b(), parallel=ParallelConfig(tensor=8, pipeline=16)), H100, 15_000)
    assert recipe.parallel.data == 117
