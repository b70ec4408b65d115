"""Which layers each pipeline stage holds: the same number each, in order (`rules.py` checks that they divide)."""


def stage_layers(num_layers: int, num_stages: int, stage: int) -> range:
    """The layers of one stage, counted from 0 over the whole model."""
    assert num_layers % num_stages == 0
    size = num_layers // num_stages
    return range(stage * size, (stage + 1) * size)


def stage_of(layer: int, num_layers: int, num_stages: int) -> int:
    """The stage that holds a layer."""
    assert 0 <= layer < num_layers
    return layer * num_stages // num_layers
