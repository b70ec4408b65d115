"""`mai import hf` of a folder that is not whole, not what it says, or not a model: one error that lists all of it, the
exit code of a bad checkpoint, and nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from mai.checkpoint.hf_fit import fit
from mai.checkpoint.hf_folder import read_headers
from mai.checkpoint.manifest import read_manifest
from mai.checkpoint.shard_file import write_tensors
from mai.cli import cli
from mai.errors import CheckpointError
from tests.parity.hugging_face import config_of, write_model

pytestmark = pytest.mark.usefixtures("cpu_engine")

INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in several files, with an index."""
    folder = tmp_path_factory.mktemp("written")
    write_model(folder, "llama", 2, shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "hf"))


def import_(folder: Path) -> Result:
    return CliRunner().invoke(cli, ["import", "hf", str(folder), str(folder.parent / "run"), "--json"])


def refused(folder: Path) -> str:
    """What is told; that the code is right, that nothing is left, and that it is no error of ours, is checked here."""
    before = sorted(folder.parent.iterdir())
    result = import_(folder)
    assert result.exit_code == 82, result.output
    told: str = "\n".join(json.loads(result.stdout)["error"]["violations"])
    assert "unexpected error" not in told
    assert "Traceback" not in result.output
    assert sorted(folder.parent.iterdir()) == before
    return told


def index_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / INDEX).read_text())  # type: ignore[no-any-return]


def change_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({**index_of(folder), "weight_map": weight_map}))


def file_of(folder: Path, name: str) -> Path:
    return folder / str(index_of(folder)["weight_map"][name])


def change_file(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.slow
def test_a_whole_folder_is_imported_and_a_second_time_refused(folder: Path) -> None:
    assert import_(folder).exit_code == 0
    again = import_(folder)
    assert again.exit_code == 2
    assert "is there already, and holds something" in again.output


def test_config_file_and_tokenizer_are_told_together(folder: Path) -> None:
    config = {**config_of(folder), "hidden_act": "gelu", "num_hidden_layers": "two", "rope_scaling": "x"}
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": None}))
    file = file_of(folder, NORM)
    file.write_bytes(file.read_bytes()[:-1])
    (folder / "tokenizer.json").write_text("{")
    told = refused(folder)
    for words in ("hidden_act='gelu'", "num_hidden_layers='two'", "rope_scaling='x'", file.name, "tokenizer.json"):
        assert words in told


def test_missing_extra_and_misshapen_tensors_of_several_files_are_told_together(folder: Path) -> None:
    weight_map = index_of(folder)["weight_map"]
    gone, grown = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
    change_file(file_of(folder, gone), lambda tensors: tensors.pop(gone))
    change_file(file_of(folder, grown), lambda tensors: tensors.update({grown: torch.zeros(64, 95)}))
    change_file(file_of(folder, NORM), lambda tensors: tensors.update(more=torch.zeros(3)))
    change_index(folder, {**{key: file for key, file in weight_map.items() if key != gone}, "more": weight_map[NORM]})
    told = refused(folder)
    assert f"{gone}: missing" in told
    assert "more: not a part of this model" in told
    assert f"{grown} [64, 95]: cannot be" in told


@pytest.mark.parametrize("name", ["config.json", INDEX, "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"[" * 100_000, b"null"], ids=range(6))
def test_json_that_is_not_what_it_should_be_is_named(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    assert str(folder / name) in refused(folder)


@pytest.mark.parametrize("weight_map", [[], {}, {NORM: 3}, {NORM: None}, {NORM: ["a"]}, "all", None], ids=repr)
def test_an_index_that_is_no_map_is_told(weight_map: object, folder: Path) -> None:
    change_index(folder, weight_map)
    assert "weight_map does not say which tensor is in which file" in refused(folder)


def test_an_index_that_lies_is_told(folder: Path) -> None:
    weight_map: dict[str, str] = index_of(folder)["weight_map"]
    other = next(file for file in weight_map.values() if file != weight_map[NORM])
    silent = next(name for name in weight_map if name != NORM and list(weight_map.values()).count(weight_map[name]) > 1)
    lies = {name: file for name, file in weight_map.items() if name != silent}
    change_index(folder, {**lies, NORM: other, "model.invented": other})
    told = refused(folder)
    assert f"{NORM} is said to be in {other}, and is not" in told
    assert f"model.invented is said to be in {other}, and is not" in told
    assert f"does not name {silent}" in told


def test_the_same_tensor_in_two_files_is_told(folder: Path) -> None:
    file = next(file for file in sorted(folder.glob("*.safetensors")) if file != file_of(folder, NORM))
    change_file(file, lambda tensors: tensors.update({NORM: torch.ones(64)}))
    assert f"{NORM} stands in" in refused(folder)


def test_a_file_that_is_not_there_is_told(folder: Path) -> None:
    file_of(folder, NORM).rename(folder / "elsewhere")
    assert "names files that are not here" in refused(folder)


def test_a_file_cut_at_any_byte_is_told(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, file)
    whole = file.read_bytes()
    assert read_headers(tmp_path)[0].keys() == {"a", "b"}
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged or cut off"):
            read_headers(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_shard_that_was_cut_leaves_nothing_behind(share: float, folder: Path) -> None:
    file = file_of(folder, NORM)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    assert f"{file}: damaged or cut off" in refused(folder)


@pytest.mark.parametrize("kind", ["empty", "a file", "not there", "text", "pickles"])
def test_what_is_no_such_folder_is_told(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    if kind == "a file":
        folder.write_text("no folder")
    elif kind != "not there":
        folder.mkdir()
    if kind == "text":
        (folder / "README.md").write_text("a model")
    if kind == "pickles":
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    told = refused(folder)
    assert "config.json" in told
    if kind == "pickles":
        assert "pytorch_model.bin" in told
        assert "can run code when read: save the model as safetensors" in told


def test_a_run_folder_of_mai_is_no_hugging_face_folder(folder: Path) -> None:
    assert import_(folder).exit_code == 0
    inner = folder.parent / "again"
    inner.mkdir()
    (folder.parent / "run").rename(inner / "hf")
    assert "config.json: No such file or directory" in refused(inner / "hf")


def test_an_export_of_a_damaged_checkpoint_leaves_nothing_behind(folder: Path) -> None:
    assert import_(folder).exit_code == 0
    run, out = folder.parent / "run", folder.parent / "out"
    (file,) = run.glob("checkpoints/*/*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    before = sorted(folder.parent.iterdir())
    result = CliRunner().invoke(cli, ["export", "hf", str(run), str(out), "--json"])
    assert result.exit_code == 82, result.output
    assert f"{file}: damaged" in result.stdout
    assert sorted(folder.parent.iterdir()) == before


def test_an_export_of_a_checkpoint_that_lacks_a_tensor_names_it(folder: Path) -> None:
    assert import_(folder).exit_code == 0
    run, out = folder.parent / "run", folder.parent / "out"
    (file,) = run.glob("checkpoints/*/*.safetensors")
    tensors = load_file(file)
    lacking = min(tensors)
    file.unlink()
    # The digest is right, so that nothing else is wrong.
    manifest = read_manifest(file.parent)
    manifest.files[file.name] = write_tensors(file, {key: tensors[key] for key in tensors if key != lacking})
    (file.parent / "manifest.json").write_text(manifest.to_json())
    result = CliRunner().invoke(cli, ["export", "hf", str(run), str(out), "--json"])
    assert result.exit_code == 82, result.output
    assert f"holds no {lacking}, which its manifest names" in result.stdout
    assert not out.exists()


BLOCKS = {"w_blocks": torch.zeros(4, 2, 16, dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"w": torch.zeros(3, dtype=torch.int64)}, "w: I64 is not read"),
        ({"w": torch.zeros(3, dtype=torch.float64)}, "w: F64 is not read"),
        ({"w": torch.zeros(3, 3).to(torch.float8_e4m3fn)}, "w: F8_E4M3 is not read"),
        ({"w": torch.zeros(3, 3).to(torch.float8_e4m3fn), "w_scale_inv": torch.ones(2, 1)}, "no block-wise FP8"),
        ({"w": torch.zeros(3, 3), "w_scale_inv": torch.ones(1, 1)}, "no block-wise FP8"),
        ({**BLOCKS, "w_scales": torch.zeros(4, 3, dtype=torch.uint8)}, "no MXFP4"),
        ({"w_blocks": torch.zeros(16, dtype=torch.uint8), "w_scales": torch.zeros(1, dtype=torch.uint8)}, "no MXFP4"),
    ],
)
def test_weights_in_no_known_format_are_told(tensors: dict[str, torch.Tensor], told: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=told):
        read_headers(tmp_path)


def test_no_value_in_a_config_is_an_error_of_ours(tmp_path: Path) -> None:
    """Of DeepSeek-V3, which has most; what is no error is a value that no tensor depends on."""
    write_model(tmp_path, "deepseek_v3", 2)
    config = config_of(tmp_path)
    refusals = 0
    for key in config:
        for value in ("x", -1, 10**30, 0):
            (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
            try:
                fit(tmp_path)
            except CheckpointError:
                refusals += 1
    assert refusals > len(config)
