"""How the next token is drawn from its logits."""

import math
from collections import Counter

import pytest
import torch

pytestmark = pytest.mark.usefixtures("cpu_engine")

# Probabilities 0.5, 0.3, 0.15 and 0.05, not in order.
PROBABILITIES = {2: 0.5, 0: 0.3, 3: 0.15, 1: 0.05}
LOGITS_BV = torch.tensor([[math.log(PROBABILITIES[token]) for token in range(4)]])
DRAWS = 2_000


def counts(**sampling: float) -> Counter[int]:
    from mai.engine.generate import Sampling, draw

    generator = torch.Generator().manual_seed(0)
    drawn = draw(LOGITS_BV.expand(DRAWS, 4), Sampling(**sampling), generator)
    assert drawn.shape == (DRAWS,)
    assert drawn.dtype == torch.int64
    return Counter(drawn.tolist())


def test_temperature_0_takes_the_likeliest() -> None:
    assert counts(temperature=0.0) == {2: DRAWS}


def test_temperature_1_draws_as_the_model_says() -> None:
    found = counts(temperature=1.0)
    for token, probability in PROBABILITIES.items():
        deviation = math.sqrt(DRAWS * probability * (1 - probability))
        assert abs(found[token] - DRAWS * probability) < 4 * deviation


def test_a_low_temperature_sharpens_and_a_high_one_flattens() -> None:
    assert counts(temperature=0.5)[2] > counts(temperature=1.0)[2] > counts(temperature=2.0)[2]


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1.0, {0, 1, 2, 3}), (0.9, {0, 2, 3}), (0.7, {0, 2}), (0.49, {2}), (0.0, {2})]
)
def test_the_nucleus_is_the_fewest_likeliest_tokens_that_reach_top_p(top_p: float, kept: set[int]) -> None:
    assert set(counts(temperature=1.0, top_p=top_p)) == kept


def test_the_nucleus_keeps_the_proportions_of_its_tokens() -> None:
    found = counts(temperature=1.0, top_p=0.7)
    assert found[2] / DRAWS == pytest.approx(0.5 / 0.8, abs=0.05)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_no_temperature_is_too_low_to_draw(temperature: float) -> None:
    assert counts(temperature=temperature) == {2: DRAWS}


def test_the_same_generator_state_draws_the_same() -> None:
    assert counts(temperature=1.0) == counts(temperature=1.0)
