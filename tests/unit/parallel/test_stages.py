import random
from typing import Any

import pytest

from mai.parallel.stages import VirtualStage, all_virtual_stages, virtual_stages_of
from mai.recipe import ParallelConfig
from mai.recipe.stage_text import written_out
from tests.unit.parallel.upstream import cut_out

LAYOUT_FILE = "transformer/pipeline_parallel_layer_layout.py"

CUTS = [
    (4, ParallelConfig()),
    (4, ParallelConfig(pipeline=2)),
    (12, ParallelConfig(pipeline=3, virtual_stages=2)),
    (30, ParallelConfig(pipeline=4, stages="balanced")),
    (61, ParallelConfig(pipeline=8, virtual_stages=2, stages="balanced")),
    (2, ParallelConfig(pipeline=4, stages="balanced")),
    (62, ParallelConfig(pipeline=16, virtual_stages=2, stages="Et*3|(tt|)*29,t|L")),
    (5, ParallelConfig(pipeline=2, virtual_stages=2, stages="E|t*4|t|L")),
]
every_cut = pytest.mark.parametrize(("num_layers", "parallel"), CUTS, ids=str)


@pytest.fixture(scope="module")
def megatron(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Megatron-Core's own reading of the notation."""
    names = {"transformer/enums.py": {"LayerType"}, LAYOUT_FILE: {"PipelineParallelLayerLayout"}}
    imports = "import copy, enum, re\nfrom functools import lru_cache\nfrom typing import Optional"
    return cut_out(names, imports=imports, folder=tmp_path_factory.mktemp("megatron"))


@every_cut
def test_parts_hold_the_whole_model_once_and_in_order(num_layers: int, parallel: ParallelConfig) -> None:
    found = all_virtual_stages(num_layers, parallel)
    assert [layer for each in found for layer in each.layers] == list(range(num_layers))
    assert [each.has_embedding for each in found] == [True] + [False] * (len(found) - 1)
    assert [each.has_loss for each in found] == [False] * (len(found) - 1) + [True]


@every_cut
def test_stages_take_the_parts_in_turn(num_layers: int, parallel: ParallelConfig) -> None:
    found = all_virtual_stages(num_layers, parallel)
    stages = [virtual_stages_of(num_layers, parallel, stage) for stage in range(parallel.pipeline)]
    assert {len(stage) for stage in stages} == {parallel.virtual_stages}
    for index, each in enumerate(found):
        assert stages[index % parallel.pipeline][index // parallel.pipeline] == each


@pytest.mark.parametrize(("stages", "virtual_stages"), [(2, 2), (2, 3), (4, 1), (4, 2), (3, 3)])
def test_balanced_stages_differ_by_one_with_all_their_virtual_stages(stages: int, virtual_stages: int) -> None:
    parallel = ParallelConfig(pipeline=stages, virtual_stages=virtual_stages, stages="balanced")
    for num_layers in range(stages * virtual_stages, 40):
        holds = [
            sum(
                len(each.layers) + each.has_embedding + each.has_loss
                for each in virtual_stages_of(num_layers, parallel, stage)
            )
            for stage in range(stages)
        ]
        assert max(holds) - min(holds) <= 1


@every_cut
def test_megatron_core_gives_every_stage_the_same_parts(
    num_layers: int, parallel: ParallelConfig, megatron: Any
) -> None:
    text = (
        parallel.stages
        if parallel.stages not in ("even", "balanced")
        else text_of(all_virtual_stages(num_layers, parallel))
    )
    theirs = megatron.PipelineParallelLayerLayout(text, parallel.pipeline)
    theirs.validate_layer_layout(num_layers, None)
    kinds = megatron.LayerType
    for stage in range(parallel.pipeline):
        ours = [
            [kinds.embedding] * each.has_embedding + [kinds.decoder] * len(each.layers) + [kinds.loss] * each.has_loss
            for each in virtual_stages_of(num_layers, parallel, stage)
        ]
        assert theirs.layout[stage] == ours


def text_of(found: tuple[VirtualStage, ...]) -> str:
    return "|".join("E" * each.has_embedding + "t" * len(each.layers) + "L" * each.has_loss for each in found)


def test_megatron_core_reads_every_text_as_we_do(megatron: Any) -> None:
    letters = {megatron.LayerType.embedding: "E", megatron.LayerType.decoder: "t", megatron.LayerType.loss: "L"}
    drawn = random.Random(0)
    for _ in range(500):
        text = some_text(drawn)
        theirs = megatron.PipelineParallelLayerLayout.parse_str_to_list(text)
        assert written_out(text) == "|".join("".join(letters[kind] for kind in each) for each in theirs), text


def some_text(drawn: random.Random) -> str:
    """Letters and groups, repeated or not, with commas in between."""

    def letter() -> str:
        return drawn.choice("EtL|") + drawn.choice(["", "", f"*{drawn.randint(1, 12)}"]) + drawn.choice(["", "", ","])

    def group() -> str:
        return f"({''.join(letter() for _ in range(drawn.randint(1, 4)))})*{drawn.randint(1, 12)}"

    return "".join(drawn.choice([letter, group])() for _ in range(drawn.randint(1, 6)))


def test_megatron_core_reads_in_an_odd_way_or_not_at_all_what_we_refuse(megatron: Any) -> None:
    (each,) = megatron.PipelineParallelLayerLayout.parse_str_to_list("(t)*2*3")
    assert len(each) == 4
    for text in ("((t)*2|)*2", "(t|)", "t|*"):
        with pytest.raises(AssertionError):
            megatron.PipelineParallelLayerLayout.parse_str_to_list(text)
    for text in ("(t)*2*3", "((t)*2|)*2", "(t|)", "t|*"):
        with pytest.raises(ValueError, match=r"parentheses|\*"):
            written_out(text)
