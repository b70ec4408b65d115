"""Initial weights are a function of (seed, name, row): whoever holds a block draws the same numbers for it."""

import pytest
import torch

pytestmark = pytest.mark.usefixtures("cpu_engine")

SHAPE = (200, 24)
WHOLE_OFFSET = (0, 0)
STD = 0.02


def drawn(offset: tuple[int, int], shape: tuple[int, int], *, name: str = "w", seed: int = 0) -> torch.Tensor:
    from mai.engine.initialize import normal_block
    from mai.engine.shard import Block

    block = Block(name=name, global_shape=SHAPE, offset=offset, shape=shape, is_replica=False)
    return normal_block(block, std=STD, seed=seed)


@pytest.mark.parametrize("offset", [(0, 0), (100, 0), (63, 0), (64, 0), (65, 12), (199, 23), (0, 12)])
def test_a_block_is_its_part_of_the_whole(offset: tuple[int, int]) -> None:
    row, column = offset
    shape = (min(50, SHAPE[0] - row), min(12, SHAPE[1] - column))
    whole = drawn(WHOLE_OFFSET, SHAPE)
    assert torch.equal(drawn(offset, shape), whole[row : row + shape[0], column : column + shape[1]])


def test_they_have_the_recipes_mean_and_deviation() -> None:
    whole = drawn(WHOLE_OFFSET, SHAPE)
    assert abs(float(whole.mean())) < 4 * STD / whole.numel() ** 0.5
    assert float(whole.std()) == pytest.approx(STD, rel=0.05)


def test_another_seed_name_or_row_draws_other_numbers() -> None:
    whole = drawn(WHOLE_OFFSET, SHAPE)
    assert not torch.equal(whole, drawn(WHOLE_OFFSET, SHAPE, seed=1))
    assert not torch.equal(whole, drawn(WHOLE_OFFSET, SHAPE, name="v"))
    assert len({tuple(row.tolist()) for row in whole}) == SHAPE[0]


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    drawn(WHOLE_OFFSET, SHAPE)
    assert torch.equal(before, torch.get_rng_state())


def test_residual_projections_are_narrower_by_the_depth() -> None:
    from mai.engine.translate import output_init_std
    from recipes.debug.tiny import tiny

    assert output_init_std(tiny().model) == pytest.approx(0.02 / 8**0.5)


def drawn_expert(expert: int, *, row: int = 0, num_rows: int = SHAPE[0]) -> torch.Tensor:
    from mai.engine.initialize import normal_block
    from mai.engine.shard import Block

    block = Block(
        name="w", global_shape=(4, *SHAPE), offset=(expert, row, 0), shape=(1, num_rows, SHAPE[1]), is_replica=False
    )
    return normal_block(block, std=STD, seed=0)


def test_every_expert_draws_its_own_numbers_whoever_holds_a_part() -> None:
    experts = [drawn_expert(expert) for expert in range(4)]
    assert experts[0].shape == (1, *SHAPE)
    assert len({float(expert[0, 0, 0]) for expert in [*experts, drawn(WHOLE_OFFSET, SHAPE)[None]]}) == 5
    assert torch.equal(drawn_expert(3, row=70, num_rows=60), experts[3][:, 70:130])
