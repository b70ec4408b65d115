"""Every way to cut the model against one rank: tokens per second, as ratios within one run.

    python -m benchmarks.layouts

One rank and a layout's ranks train the same model on the same tokens in turn, block by block. With fewer cores than
ranks a layout cannot be faster; what shows a slow path then is its tokens per second of CPU time, which is that of all
ranks together. The result goes to benchmarks/results/layouts_cpu_<date>.json.
"""

import argparse
import datetime as dt
import importlib
import json
import multiprocessing
import socket
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from mai.engine import device as devices
from mai.parallel.place import Place
from mai.recipe import LatentAttention, MixtureOfExperts, ParallelConfig, Recipe
from recipes.quickstart import quickstart

RESULTS = Path(__file__).parent / "results"
FORK = multiprocessing.get_context("fork")

DENSE: list[dict[str, Any]] = [
    {},
    {"recompute": ("attention_core",)},
    {"recompute": ("norms",)},
    {"recompute": ("feed_forward",)},
    {"recompute": ("layer",)},
    {"data": 2},
    {"data": 2, "sharding": "full"},
    {"data": 4, "sharding_ranks": 2},
    {"data": 4, "sharding": "full", "sharding_ranks": 2},
    {"tensor": 2},
    {"tensor": 2, "sequence": True},
    {"context": 2},
    {"pipeline": 2},
    {"pipeline": 2, "stages": "Ettt|tL"},
    {"pipeline": 2, "virtual_stages": 2},
    {"tensor": 2, "sequence": True, "pipeline": 2, "data": 2},
]
EXPERTS: list[dict[str, Any]] = [
    {},
    {"recompute": ("experts",)},
    {"data": 2, "expert": 2},
    {"tensor": 2, "sequence": True, "expert": 2},
    {"tensor": 2, "sequence": True, "expert_tensor": 2},
    {"context": 2, "expert": 2},
]
LATENT: list[dict[str, Any]] = [{}, {"tensor": 2}, {"tensor": 2, "sequence": True}, {"context": 2}]
MODELS = {"dense": DENSE, "experts": EXPERTS, "latent": LATENT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=5, help="timed blocks of each, in turn; the medians are compared")
    parser.add_argument("--steps", type=int, default=2, help="steps of a block")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    devices.prepare("cpu")
    # Once, and not in every rank: they are forked from this process.
    importlib.import_module("mai.engine.engine")
    rows = []
    for model, axes in ((model, axes) for model, layouts in MODELS.items() for axes in layouts):
        rows.append(compared(model, axes, blocks=arguments.blocks, steps=arguments.steps))
        print(
            "{model:8} {layout:45} {ranks} ranks   tokens/s x {per_second:.2f}   tokens/CPU-s x {per_cpu_second:.2f} "
            "({per_cpu_second_min:.2f} to {per_cpu_second_max:.2f})".format(**rows[-1])
        )
    result = {
        "what": "tokens per second of each layout over one rank of the same model, medians of blocks in turn",
        "device": "cpu",
        **machine(),
        "torch": torch.__version__,
        "threads_per_rank": 1,
        "blocks": arguments.blocks,
        "steps_per_block": arguments.steps,
        "layouts": rows,
    }
    (RESULTS / f"layouts_cpu_{dt.date.today()}.json").write_text(json.dumps(result, indent=2) + "\n")


def compared(model: str, axes: dict[str, Any], *, blocks: int, steps: int) -> dict[str, Any]:
    """One layout beside one rank: ratios of tokens per second, and of tokens per second of CPU time."""
    one_rank, layout = recipe_of(model, {}), recipe_of(model, axes)
    with crew(one_rank) as alone, crew(layout) as ranks:
        pairs = [(block(alone, steps), block(ranks, steps)) for _ in range(blocks)]
    per_second = [one[0] / cut[0] for one, cut in pairs]
    per_cpu_second = [one[1] / cut[1] for one, cut in pairs]
    return {
        "model": model,
        "layout": words(axes),
        "ranks": len(ranks),
        "per_second": round(statistics.median(per_second), 3),
        "per_cpu_second": round(statistics.median(per_cpu_second), 3),
        "per_cpu_second_min": round(min(per_cpu_second), 3),
        "per_cpu_second_max": round(max(per_cpu_second), 3),
    }


def recipe_of(model: str, axes: dict[str, Any]) -> Recipe:
    """The quick start's model: dense, with its feed-forward network cut into eight experts (two compute a token),
    or with latent attention."""
    recipe = quickstart()
    sizes = recipe.model
    if model == "experts":
        experts = MixtureOfExperts(num_experts=8, experts_per_token=2, ffn_hidden_size=sizes.ffn_hidden_size // 2)
        sizes = replace(sizes, feed_forward=experts)
    if model == "latent":
        latent = LatentAttention(key_value_rank=64, query_rank=96, rotary_head_size=16, value_head_size=32)
        sizes = replace(sizes, attention=latent, num_kv_heads=sizes.num_heads)
    parallel = ParallelConfig(**{"data": 1, "micro_batch_sequences": 4, **axes})
    return replace(recipe, model=sizes, parallel=parallel)


def words(axes: dict[str, Any]) -> str:
    names = [name if value is True else f"{name} {'+'.join(value) if isinstance(value, tuple) else value}"
             for name, value in axes.items()]  # fmt: skip
    return ", ".join(names) or "one rank"


@contextmanager
def crew(recipe: Recipe) -> Iterator[list[Connection]]:
    """The recipe's ranks, each behind a pipe that takes a number of steps and gives seconds and CPU seconds."""
    num_ranks = recipe.parallel.model_ranks * (recipe.parallel.data or 1)
    port = free_port()
    pipes, processes = [], []
    for rank in range(num_ranks):
        place = Place(rank=rank, world_size=num_ranks, local_rank=rank, master_address="127.0.0.1", master_port=port)
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=serve, args=(recipe, place, theirs), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    try:
        block(pipes, 1)
        yield pipes
    finally:
        for pipe in pipes:
            # A rank that failed has closed its end, and said why.
            with suppress(OSError):
                pipe.send(0)
        for process in processes:
            process.join(10)


def block(ranks: list[Connection], steps: int) -> tuple[float, float]:
    """Let all ranks make so many steps; the slowest one's seconds, and the CPU seconds of all."""
    for pipe in ranks:
        pipe.send(steps)
    answers = [pipe.recv() for pipe in ranks]
    return max(seconds for seconds, _ in answers), sum(cpu_seconds for _, cpu_seconds in answers)


def serve(recipe: Recipe, place: Place, pipe: Connection) -> None:
    """One rank: build the engine, then step as often as the pipe says, until it says 0."""
    from mai.data.loader import batch_positions
    from mai.data.synthetic import synthetic_sequences
    from mai.engine import groups
    from mai.engine.engine import Engine, summed
    from mai.objective.pretrain import Pretrain
    from mai.parallel.layout import Layout

    device = devices.open_device("cpu", place)
    torch.set_num_threads(1)
    groups.join_world(backend=device.backend, place=place, timeout_seconds=300)
    layout = Layout.of(recipe.parallel, world_size=place.world_size)
    engine = Engine(recipe, layout, groups.build_groups(layout, timeout_seconds=300), device)
    sequences = synthetic_sequences(recipe.model.vocab_size, recipe.data.sequence_length, seed=0)
    positions = batch_positions(
        0,
        batch_sequences=recipe.batch_sequences,
        data_rank=engine.groups.data_rank,
        data_ranks=layout.data,
    )
    batch = Pretrain().batch(sequences, positions)
    while steps := pipe.recv():
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(steps):
            engine.apply(engine.forward_backward(batch, summed), learning_rate=1e-3)
        pipe.send((time.perf_counter() - started, time.process_time() - cpu_started))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
