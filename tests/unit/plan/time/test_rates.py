import pytest

from mai.errors import PlanError
from mai.hardware.gpu import load_gpu
from mai.plan.model.work import Multiplication
from mai.plan.software import load_software
from mai.plan.time.rates import Rates

MAI = load_software("mai")
LARGE = Multiplication(8192, 8192, 8192)


def test_a_large_product_runs_near_what_a_step_sustains() -> None:
    rates = Rates.of(load_gpu("h100"), "bf16", MAI, num_gpus=1)
    forward, backward = rates.product_seconds(LARGE)
    assert 0.9 < LARGE.flops / forward / (794.5e12 * 0.915) < 1
    assert 2 * forward < backward < 2.2 * forward


def test_a_thin_product_is_slower_a_number() -> None:
    rates = Rates.of(load_gpu("h100"), "bf16", MAI, num_gpus=1)
    thin = Multiplication(64, 8192, 8192)
    assert rates.product_seconds(thin)[0] / thin.flops > 3 * rates.product_seconds(LARGE)[0] / LARGE.flops


def test_fp8_is_faster_but_not_twice_as_fast() -> None:
    bf16, fp8 = (Rates.of(load_gpu("h100"), precision, MAI, num_gpus=1) for precision in ("bf16", "fp8"))
    gain = sum(bf16.product_seconds(LARGE)) / sum(fp8.product_seconds(LARGE))
    assert 1.4 < gain < 2


def test_attention_of_short_sequences_is_slower() -> None:
    rates = Rates.of(load_gpu("h100"), "bf16", MAI, num_gpus=1)
    assert rates.attention_seconds(1e12, length=1024)[0] > 1.5 * rates.attention_seconds(1e12, length=65_536)[0]


def test_the_slowest_of_many_gpus_sets_the_pace() -> None:
    alone, many = (Rates.of(load_gpu("h100"), "bf16", MAI, num_gpus=number) for number in (1, 8))
    assert many.product_flops == pytest.approx(0.95 * alone.product_flops)


def test_a_gpu_without_fp8_says_so() -> None:
    with pytest.raises(PlanError, match="precision=fp8: a100_80gb has no such arithmetic"):
        Rates.of(load_gpu("a100_80gb"), "fp8", MAI, num_gpus=1)


def test_fp32_runs_outside_the_tensor_cores() -> None:
    bf16, fp32 = (Rates.of(load_gpu("a100_80gb"), precision, MAI, num_gpus=1) for precision in ("bf16", "fp32"))
    assert fp32.product_flops < 19.5e12 < bf16.product_flops / 8


def test_rates_that_nobody_measured_are_shares_of_the_peak() -> None:
    rates = Rates.of(load_gpu("maia100"), "bf16", MAI, num_gpus=1)
    assert rates.product_flops == pytest.approx(800e12 * 0.72 * 0.9)
