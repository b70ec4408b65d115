"""Import and export against copying the same files and against transformers: MB/s, as ratios within one run.

    python -m benchmarks.hugging_face

A Llama of random bf16 weights goes the ways below in turn, each time in a fresh process that has imported what it needs
before the clock starts (mai's worker processes have not: they start within it). On a machine that others use as well,
CPU seconds, of all processes of a way, tell more than seconds. Speeds are bytes of the folder of weights over seconds.
The result goes to benchmarks/results/hugging_face_cpu_<date>.json.
"""

import argparse
import datetime as dt
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from mai.engine.device import Device

RESULTS = Path(__file__).parent / "results"
SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 32_000,
}
# Files small enough that two processes share this model; both ways and transformers write files of this size.
SHARD_BYTES = 2**28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that each way is gone, in turn; medians are compared"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        alone(write_model, folder)
        num_bytes = sum(file.stat().st_size for file in (folder / "hf").glob("*.safetensors"))
        rounds = [one_round(folder) for _ in range(arguments.rounds)]
    found = {way: {**compared(way, rounds), "MB_per_second": speed(way, rounds, num_bytes)} for way in rounds[0]}
    for way, numbers in found.items():
        print(f"{way:28} {numbers}")
    result = {
        "what": "seconds of a plain copy, and of transformers' load and save, over each way's: median, min, max",
        "device": "cpu",
        **machine(),
        "torch": torch.__version__,
        "threads_per_process": 1,
        "rounds": arguments.rounds,
        "folder_bytes": num_bytes,
        "shard_bytes": SHARD_BYTES,
        "ways": found,
    }
    (RESULTS / f"hugging_face_cpu_{dt.date.today()}.json").write_text(json.dumps(result, indent=2) + "\n")


def one_round(folder: Path) -> dict[str, dict[str, Any]]:
    """Every way once: seconds, and the most memory that a process of it held."""
    found = {"copy": alone(copy, folder), "transformers": alone(load_and_save, folder)}
    for workers in (1, 2):
        found[f"import, {workers} processes"] = alone(import_, folder, workers)
        found[f"export, {workers} processes"] = alone(export, folder, workers)
        for name in ("run", "out"):
            shutil.rmtree(folder / name)
    for workers in (1, 2):
        there, back = (found[f"{way}, {workers} processes"] for way in ("import", "export"))
        found[f"import and export, {workers} processes"] = {
            **{unit: there[unit] + back[unit] for unit in ("seconds", "cpu_seconds")},
            "peak_bytes": max(there["peak_bytes"], back["peak_bytes"]),
        }
    return found


def compared(way: str, rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Ratios within each round: median, lowest and highest."""
    found: dict[str, Any] = {}
    for unit, other in itertools.product(("seconds", "cpu_seconds"), ("copy", "transformers")):
        ratios = [one[other][unit] / one[way][unit] for one in rounds]
        found[f"{other}_{unit}_over_these"] = [round(pick(ratios), 3) for pick in (statistics.median, min, max)]
    return {**found, "peak_MB": round(max(one[way]["peak_bytes"] for one in rounds) / 1e6)}


def speed(way: str, rounds: list[dict[str, dict[str, Any]]], num_bytes: int) -> float:
    return round(num_bytes / 1e6 / statistics.median(one[way]["seconds"] for one in rounds), 1)


def alone(work: Callable[..., Any], *words: Any) -> Any:
    """In a process of its own, so that its peak is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=be_quiet) as pool:
        return pool.submit(work, *words).result()


def be_quiet() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def write_model(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**SIZES, dtype="bfloat16", eos_token_id=0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    model.save_pretrained(folder / "hf", max_shard_size=SHARD_BYTES)


def timed(work: Callable[[], Any]) -> dict[str, Any]:
    started, cpu_started = time.perf_counter(), sum(os.times()[:4])
    done = work()
    seconds, cpu_seconds = time.perf_counter() - started, sum(os.times()[:4]) - cpu_started
    peak = max(Device("cpu", 0).peak_memory_bytes(), getattr(done, "peak_memory_bytes", 0))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak}


def copy(folder: Path) -> dict[str, Any]:
    """Durable, as what mai writes."""

    def work() -> None:
        (folder / "copy").mkdir()
        for file in (folder / "hf").iterdir():
            with file.open("rb") as source, (folder / "copy" / file.name).open("xb") as target:
                shutil.copyfileobj(source, target, 2**20)
                target.flush()
                os.fsync(target.fileno())

    done = timed(work)
    shutil.rmtree(folder / "copy")
    return done


def load_and_save(folder: Path) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    def work() -> None:
        model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype="auto", local_files_only=True)
        model.save_pretrained(folder / "saved", max_shard_size=SHARD_BYTES)

    done = timed(work)
    shutil.rmtree(folder / "saved")
    return done


def import_(folder: Path, workers: int) -> dict[str, Any]:
    from mai.checkpoint import hf_import
    from mai.checkpoint.hf_fit import fit
    from mai.run_folder import RunFolder

    def work() -> hf_import.Imported:
        found = fit(folder / "hf")
        run = RunFolder(folder / "run")
        run.create()
        limits = {"workers": workers, "shard_bytes": SHARD_BYTES}
        return hf_import.import_hf(found.folder, found.rules, recipe_of(folder), run, **limits)

    return timed(work)


def export(folder: Path, workers: int) -> dict[str, Any]:
    from mai.checkpoint import hf_export
    from mai.run_folder import RunFolder

    def work() -> hf_export.Exported:
        run = RunFolder(folder / "run")
        (folder / "out").mkdir()
        plan = hf_export.plan_export(recipe_of(folder), run, step=None)
        return hf_export.export_hf(plan, run, folder / "out", workers=workers, shard_bytes=SHARD_BYTES)

    return timed(work)


def recipe_of(folder: Path) -> Any:
    from dataclasses import replace

    from mai.checkpoint.hf_fit import fit
    from recipes.quickstart import quickstart

    return replace(quickstart(), model=fit(folder / "hf").model)


if __name__ == "__main__":
    main()
