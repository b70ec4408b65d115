"""Every family computes what transformers computes with the same weights, in fp32, at one rank and cut over four; and
what was imported goes out again bit for bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mai.errors import CheckpointError
from mai.parallel.place import Place
from mai.recipe import ParallelConfig, Recipe, load
from mai.run_folder import RunFolder
from tests.parity.hugging_face import (
    CASES,
    CONFIGS,
    add_further_depth,
    config_of,
    read_tensors,
    tokens,
    write_model,
    write_tensors,
)
from tests.parity.trainer import end_groups
from tests.ranks import on_ranks

pytestmark = pytest.mark.usefixtures("cpu_engine")

TOLERANCE = 1e-4
ONE_RANK = ParallelConfig(data=1)
FOUR_RANKS = ParallelConfig(tensor=2, pipeline=2, data=1)


def logits(place: Place, runs: list[tuple[Path, ParallelConfig]], tokens_BS: Any) -> list[Any]:
    """Runs on every rank: each run's logits of the same tokens (as numpy), where the last stage is."""
    from mai.engine.groups import join_world

    join_world(backend="gloo", place=place, timeout_seconds=120)
    found: list[Any] = []
    for number, (folder, parallel) in enumerate(runs):
        recipe = replace(recipe_of(folder), parallel=parallel)
        assert recipe.precision.compute == "fp32", "as the config says"
        found.append(_logits_of(place, recipe, RunFolder(folder), torch.from_numpy(tokens_BS), key=f"run {number}"))
        end_groups()
    return found


def _logits_of(place: Place, recipe: Recipe, run: RunFolder, tokens_BS: torch.Tensor, *, key: str) -> Any:
    from mai.checkpoint import resume
    from mai.engine import generate
    from mai.engine.device import open_device
    from mai.engine.frozen_model import FrozenModel
    from mai.engine.groups import build_groups
    from mai.parallel.layout import Layout

    layout = Layout.of(recipe.parallel, world_size=place.world_size)
    groups = build_groups(layout, timeout_seconds=120)
    frozen = FrozenModel(recipe, layout, groups, open_device("cpu", place), max_length=tokens_BS.shape[1])
    manifest = resume.resume(
        run.checkpoints,
        frozen.shards,
        check=lambda _: None,
        leave_out=lambda *_: None,
        timeout_seconds=120,
        key=key,
    )
    assert manifest is not None
    frozen.finish_load()
    frozen._virtual_stages[0].eval()
    with torch.no_grad():
        out = generate._through_stages(frozen._virtual_stages[0], groups, tokens_BS)
    return None if out is None else out.numpy()


def recipe_of(folder: Path) -> Recipe:
    return load.from_json((folder / "recipe.json").read_text())


def import_(source: Path, run: Path, *overrides: str) -> None:
    from mai.train.hugging_face import import_run

    import_run(source, RunFolder(run), overrides, progress=False)


def export(run: Path, out: Path) -> None:
    from mai.train.hugging_face import export_run

    export_run(recipe_of(run), RunFolder(run), out, step=None, progress=False)


@pytest.fixture(scope="module")
def written(cpu_engine: None, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], tuple[Path, Any]]:
    """Each case's folder, with a run that was imported from it below, and transformers' logits."""
    found = {}
    for family, number in CASES:
        folder = tmp_path_factory.mktemp(f"{family}-{number}")
        expected = write_model(folder / "hf", family, number)
        import_(folder / "hf", folder / "run")
        found[family, number] = (folder, expected)
    return found


@pytest.fixture(scope="module")
def computed(written: dict[tuple[str, int], tuple[Path, Any]]) -> dict[ParallelConfig, dict[tuple[str, int], Any]]:
    """By layout and case: mai's logits, of the last stage."""
    found = {}
    for parallel in (ONE_RANK, FOUR_RANKS):
        runs = [(written[case][0] / "run", parallel) for case in CASES]
        answers = on_ranks(parallel.model_ranks, logits, runs, tokens().numpy())
        found[parallel] = {case: answers[-1][number] for number, case in enumerate(CASES)}
    return found


@pytest.mark.parametrize("parallel", [ONE_RANK, FOUR_RANKS], ids=["one rank", "tensor 2 x pipeline 2"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_logits_are_those_of_transformers(
    case: tuple[str, int], parallel: ParallelConfig, written: Any, computed: Any
) -> None:
    expected = written[case][1]
    assert float(expected.abs().max()) > 1, "logits near zero prove little"
    assert float((torch.from_numpy(computed[parallel][case]) - expected).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_import_then_export_gives_every_tensor_back_bit_for_bit(
    case: tuple[str, int], written: Any, tmp_path: Path
) -> None:
    folder = written[case][0]
    export(folder / "run", tmp_path / "out")
    before, after = read_tensors(folder / "hf"), read_tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert config_of(tmp_path / "out") == config_of(folder / "hf")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (folder / "hf/tokenizer.json").read_bytes()


@pytest.mark.parametrize("family", CONFIGS)
def test_bf16_in_several_files_comes_back_in_bf16(family: str, tmp_path: Path) -> None:
    write_model(tmp_path / "hf", family, 0, dtype=torch.bfloat16, shard_size="100KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    import_(tmp_path / "hf", tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    before, after = read_tensors(tmp_path / "hf"), read_tensors(tmp_path / "out")
    assert {name: tensor.dtype for name, tensor in before.items()} == {
        name: tensor.dtype for name, tensor in after.items()
    }
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("family", CONFIGS)
def test_transformers_reads_what_was_exported_of_a_run_that_was_not_imported(
    family: str, written: Any, tmp_path: Path
) -> None:
    """Without the config.json that came with it, mai writes its own."""
    from transformers import AutoModelForCausalLM

    folder, expected = written[family, 0]
    run = tmp_path / "run"
    run.mkdir()
    for path in (folder / "run").iterdir():
        if path.name != "hf":
            (run / path.name).symlink_to(path)
    export(run, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
    with torch.no_grad():
        assert float((model(tokens()).logits - expected).abs().max()) <= TOLERANCE


def test_rows_that_fill_up_the_vocabulary_are_zeros_and_stay_here(written: Any, tmp_path: Path) -> None:
    folder, _ = written["llama", 0]
    import_(folder / "hf", tmp_path / "run", "model.vocab_size=304")
    assert recipe_of(tmp_path / "run").model.vocab_size == 304
    export(tmp_path / "run", tmp_path / "out")
    before, after = read_tensors(folder / "hf"), read_tensors(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 300


@pytest.fixture
def further_depth(tmp_path: Path) -> Path:
    """A DeepSeek-V3 with multi-token prediction."""
    write_model(tmp_path / "hf", "deepseek_v3", 0)
    add_further_depth(tmp_path / "hf")
    return tmp_path / "hf"


def test_multi_token_prediction_comes_in_and_goes_out_bit_for_bit(further_depth: Path, tmp_path: Path) -> None:
    import_(further_depth, tmp_path / "run")
    assert recipe_of(tmp_path / "run").model.multi_token_depths == 1
    export(tmp_path / "run", tmp_path / "out")
    before, after = read_tensors(further_depth), read_tensors(tmp_path / "out")
    assert "model.layers.4.shared_head.head.weight" in before
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("copy", ["embed_tokens", "shared_head.head"])
def test_a_copy_that_differs_is_refused(copy: str, further_depth: Path, tmp_path: Path) -> None:
    tensors = read_tensors(further_depth)
    tensors[f"model.layers.4.{copy}.weight"][0, 0] += 1
    write_tensors(further_depth, tensors)
    with pytest.raises(CheckpointError, match=rf"model.layers.4.{copy}.weight: differ, and must be one tensor"):
        import_(further_depth, tmp_path / "run")


def test_depths_that_transformers_left_in_the_config_alone_are_left_out_and_half_of_one_is_missed(
    further_depth: Path, tmp_path: Path
) -> None:
    tensors = read_tensors(further_depth)
    main = {name: tensor for name, tensor in tensors.items() if ".layers.4." not in name}
    write_tensors(further_depth, main)
    import_(further_depth, tmp_path / "run")
    assert recipe_of(tmp_path / "run").model.multi_token_depths == 0
    export(tmp_path / "run", tmp_path / "out")
    assert read_tensors(tmp_path / "out").keys() == main.keys()
    write_tensors(further_depth, main | {"model.layers.4.enorm.weight": tensors["model.layers.4.enorm.weight"]})
    with pytest.raises(CheckpointError, match=r"model.layers.4.eh_proj.weight: missing"):
        import_(further_depth, tmp_path / "again")
