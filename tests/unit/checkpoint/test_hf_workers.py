"""Import and export in several processes: the same bytes as in one, and no process holds more than two tensors."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.house.sources import ROOT
from tests.parity.hugging_face import write_model

# In a process of its own, whose peak is then its own; its workers report theirs, and the largest is told.
SCRIPT = """
import json, sys
from pathlib import Path
from mai.checkpoint import hf_export, hf_import
from mai.checkpoint.hf_fit import fit
from mai.engine.device import Device
from mai.recipe import load
from mai.run_folder import RunFolder
from mai.workers import Workers

def idle_peak(_):
    return Device("cpu", 0).peak_memory_bytes()

if __name__ == "__main__":
    source, recipe, folder, workers, shard_bytes = sys.argv[1:]
    recipe, run, out = load.from_json(Path(recipe).read_text()), RunFolder(Path(folder) / "run"), Path(folder) / "out"
    run.create()
    out.mkdir()
    limits = {"workers": int(workers), "shard_bytes": int(shard_bytes)}
    found = fit(Path(source))
    with Workers(int(workers)) as processes:
        before = min(processes.in_order(idle_peak, [0, 1]))
    done = hf_import.import_hf(found.folder, found.rules, recipe, run, **limits)
    sent = hf_export.export_hf(hf_export.plan_export(recipe, run, step=None), run, out, **limits)
    peaks = {"import": done.peak_memory_bytes, "export": sent.peak_memory_bytes}
    print(json.dumps({"before": before, **peaks, "files": done.shard_files + len(sent.files)}))
"""


def there_and_back(source: Path, recipe: Path, folder: Path, *, workers: int, shard_bytes: int) -> dict[str, Any]:
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT)
    words = [str(source), str(recipe), str(folder), str(workers), str(shard_bytes)]
    done = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, check=False, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def _environment() -> dict[str, str]:
    # One thread: what a second one of torch's holds is no matter here.
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def import_recipe(source: Path, folder: Path) -> Path:
    """The recipe that an import of the folder makes."""
    from mai.run_folder import RunFolder
    from mai.train.hugging_face import import_run

    return Path(import_run(source, RunFolder(folder), [], progress=False).recipe)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.usefixtures("cpu_engine")
@pytest.mark.slow
def test_four_processes_write_the_bytes_that_one_writes(tmp_path: Path) -> None:
    """Of gpt-oss: one of its tensors is made of many of ours."""
    write_model(tmp_path / "hf", "gpt_oss", 0, dtype=torch.bfloat16)
    recipe = import_recipe(tmp_path / "hf", tmp_path / "first")
    found = {}
    for workers in (1, 4):
        folder = tmp_path / f"with_{workers}"
        told = there_and_back(tmp_path / "hf", recipe, folder, workers=workers, shard_bytes=100_000)
        assert told["files"] > 8, "enough for four processes"
        found[workers] = {**digests(folder / "run"), **digests(folder / "out")}
    assert "checkpoints/step-0000000000/manifest.json" in found[1]
    assert found[1] == found[4]


# A matrix of more than 32 MiB goes back to the system when it is freed, and is not kept by malloc.
WIDTH, NUM_LAYERS = 3072, 3
GATE_AND_UP_BYTES = 4 * 2 * WIDTH**2
SHARD_BYTES = 2**24


@pytest.fixture(scope="module")
def large(cpu_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 0.3 GB in fp32, whose largest tensors, gate and up, are 75 MB: large enough to be seen."""
    folder = tmp_path_factory.mktemp("large")
    write_model(folder / "hf", "llama", 0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": NUM_LAYERS, "head_dim": 16}
    config = json.loads((folder / "hf/config.json").read_text()) | sizes
    (folder / "hf/config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (300, WIDTH), "model.norm": (WIDTH,), "lm_head": (300, WIDTH)}
    for layer in range(NUM_LAYERS):
        heads = {"q": (64, WIDTH), "k": (32, WIDTH), "v": (32, WIDTH), "o": (WIDTH, 64)}
        shapes |= {f"model.layers.{layer}.self_attn.{name}_proj": shape for name, shape in heads.items()}
        shapes |= {f"model.layers.{layer}.mlp.{name}_proj": (WIDTH, WIDTH) for name in ("gate", "up", "down")}
        shapes |= {f"model.layers.{layer}.{name}_layernorm": (WIDTH,) for name in ("input", "post_attention")}
    save_file({f"{name}.weight": torch.ones(shape) for name, shape in shapes.items()}, folder / "hf/model.safetensors")
    import_recipe(folder / "hf", folder / "run")
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_no_process_holds_more_than_two_of_the_largest_tensor_and_a_shard(
    workers: int, large: Path, tmp_path: Path
) -> None:
    recipe = large / "run/recipe.json"
    told = there_and_back(large / "hf", recipe, tmp_path / "there", workers=workers, shard_bytes=SHARD_BYTES)
    for way in ("import", "export"):
        held = told[way] - told["before"]
        assert GATE_AND_UP_BYTES < held < 2 * GATE_AND_UP_BYTES + SHARD_BYTES, f"{way}: {held / 2**20:.0f} MiB"
