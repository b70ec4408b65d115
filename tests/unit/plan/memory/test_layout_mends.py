"""A setting that does not fit is told what would make it fit, and what that costs."""

import pytest

from mai.plan.memory.layout_mends import mends
from mai.plan.memory.memory import memory
from mai.plan.setting.setting import Setting
from mai.plan.time.step_time import step_time
from mai.recipe import ParallelConfig
from tests.unit.plan.memory.test_memory import setting, with_experts


def has_layers_for(parallel: ParallelConfig) -> bool:
    """One of the model's four for each part."""
    return parallel.pipeline * parallel.virtual_stages <= 4


@pytest.fixture
def misfit() -> Setting:
    return setting(software="mai", tensor=2, data=8, pipeline=2, virtual_stages=2, micro_batch_sequences=64)


def test_each_mend_frees_and_costs_what_it_says(misfit: Setting) -> None:
    before = memory(misfit).largest.needed_bytes
    found = mends(misfit, accepts=has_layers_for)
    assert found
    for mend in found:
        assert before - memory(mend.setting).largest.needed_bytes == mend.freed_bytes > 0
        assert mend.fits == memory(mend.setting).fits
        assert mend.slowdown == pytest.approx(step_time(mend.setting).seconds / step_time(misfit).seconds)


def test_those_that_fit_come_first_and_the_fastest_of_them(misfit: Setting) -> None:
    found = mends(misfit, accepts=has_layers_for)
    fits = [mend.fits for mend in found]
    assert any(fits)
    assert fits == sorted(fits, reverse=True)
    slowdowns = [mend.slowdown for mend in found if mend.fits]
    assert slowdowns == sorted(slowdowns)


def test_a_mend_keeps_the_gpus_and_the_tokens_of_a_step(misfit: Setting) -> None:
    for mend in mends(misfit, accepts=has_layers_for):
        assert mend.setting.layout.world_size == misfit.layout.world_size
        assert mend.setting.tokens == misfit.tokens


def test_what_the_recipe_does_not_accept_is_not_offered(misfit: Setting) -> None:
    assert any(mend.setting.parallel.context > 1 for mend in mends(misfit, accepts=has_layers_for))
    found = mends(misfit, accepts=lambda parallel: has_layers_for(parallel) and parallel.context == 1)
    assert found
    assert all(mend.setting.parallel.context == 1 for mend in found)


def test_sequence_parallelism_is_offered_where_tensor_ranks_go_without(misfit: Setting) -> None:
    assert any(mend.setting.parallel.sequence for mend in mends(misfit, accepts=has_layers_for))


def test_experts_are_offered_more_ranks() -> None:
    crowded = with_experts()
    fewer = setting(crowded.architecture, data=8, expert=2)
    assert any(mend.setting.parallel.expert == 4 for mend in mends(fewer, accepts=lambda _: True))
