import pytest

from mai.parallel.stages import stage_layers, stage_of


@pytest.mark.parametrize(("num_layers", "num_stages"), [(4, 1), (4, 2), (4, 4), (12, 3)])
def test_stages_hold_all_layers_once_and_in_order(num_layers: int, num_stages: int) -> None:
    stages = [stage_layers(num_layers, num_stages, stage) for stage in range(num_stages)]
    assert [layer for stage in stages for layer in stage] == list(range(num_layers))
    assert {len(stage) for stage in stages} == {num_layers // num_stages}


@pytest.mark.parametrize(("num_layers", "num_stages"), [(4, 1), (4, 2), (4, 4), (12, 3)])
def test_a_layer_is_on_the_stage_that_holds_it(num_layers: int, num_stages: int) -> None:
    for layer in range(num_layers):
        assert layer in stage_layers(num_layers, num_stages, stage_of(layer, num_layers, num_stages))
