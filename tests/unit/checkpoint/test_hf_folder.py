"""A Hugging Face folder is opened without reading weights, and whatever does not fit is told at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mai.checkpoint.hf_folder import HfFolder, read_headers
from mai.errors import CheckpointError
from mai.model.hf_rules import Source
from tests.parity.hugging_face import config_of, write_model

pytestmark = pytest.mark.usefixtures("cpu_engine")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_model(folder, "llama", 0)
    return folder


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    for path in llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def import_error(folder: Path) -> str:
    """What an import of the folder is refused with; the run folder is not made."""
    from mai.run_folder import RunFolder
    from mai.train.hugging_face import import_run

    run = folder / "run"
    with pytest.raises(CheckpointError) as refused:
        import_run(folder, RunFolder(run), [], progress=False)
    assert not run.exists()
    return str(refused.value)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **values: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**config_of(folder), **values}))


def test_missing_extra_and_misshapen_tensors_are_listed_together(copy: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.norm.weight"]
        tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(64)
        tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(64, 95)

    change_tensors(copy, spoil)
    told = import_error(copy)
    assert "model.norm.weight: missing" in told
    assert "model.layers.0.self_attn.q_proj.bias: not a part of this model" in told
    assert "model.layers.1.mlp.down_proj.weight [64, 95]: cannot be decoder.layers.1.mlp.linear_fc2.weight" in told


def test_an_unknown_family_is_told_with_those_that_are_known(copy: Path) -> None:
    change_config(copy, model_type="mamba")
    assert (
        "model_type='mamba' is no family that mai knows; it knows deepseek_v2, deepseek_v3, gemma3_text"
        in import_error(copy)
    )


def test_all_that_a_config_says_and_mai_does_not_do_is_told(copy: Path) -> None:
    change_config(copy, hidden_act="gelu", mlp_bias=True, num_hidden_layers="two", rope_parameters={"rope_type": "odd"})
    told = import_error(copy)
    for words in ("hidden_act='gelu'", "mlp_bias=True", "num_hidden_layers='two'", "rope_type='odd'"):
        assert words in told


def test_a_file_that_was_cut_off_is_named(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file}: damaged or cut off" in import_error(copy)


def test_pickled_weights_are_not_read(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "pytorch_model.bin can run code when read" in import_error(copy)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "gone.safetensors"])
def test_an_index_may_only_name_files_of_its_own_folder(name: str, copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    assert f"names files that are not here: {name}" in import_error(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "llama"'])
def test_a_config_that_is_no_object_is_told(text: str, copy: Path) -> None:
    (copy / "config.json").write_text(text)
    assert "config.json" in import_error(copy)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "No such file or directory; name a folder in Hugging Face's format" in import_error(tmp_path / "nowhere")


def test_block_wise_fp8_is_read_as_what_it_stands_for(tmp_path: Path) -> None:
    weight = torch.randn(130, 200).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 2) + 0.5
    save_file({"w.weight": weight, "w.weight_scale_inv": scales}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    folder = HfFolder(tmp_path, {}, read_headers(tmp_path)[0])
    assert list(folder.tensors) == ["w.weight"]
    assert folder.num_quantised == 1
    expected = torch.tensor(
        [[float(weight[i, j]) * float(scales[i // 128, j // 128]) for j in range(200)] for i in range(130)]
    )
    assert torch.equal(folder.read(Source("w.weight")), expected)


def test_mxfp4_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.randint(0, 256, (3, 8, 2, 16), dtype=torch.uint8)
    scales = torch.randint(120, 130, (3, 8, 2), dtype=torch.uint8)
    save_file({"experts.up_blocks": blocks, "experts.up_scales": scales}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    folder = HfFolder(tmp_path, {}, read_headers(tmp_path)[0])
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert folder.tensors["experts.up"].shape == tuple(expected.shape)
    assert torch.equal(folder.read(Source("experts.up")), expected)
    assert torch.equal(folder.read(Source("experts.up", 1, 3)), expected[1])
