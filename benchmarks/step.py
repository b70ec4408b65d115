"""One rank of `mai` against a plain PyTorch loop of the same model: tokens per second, as ratios within one run.

    python -m benchmarks.step --device cpu --threads 1
    python -m benchmarks.step --device cuda --model layers

All train the same sizes on the same tokens, in turn, block by block, so that a machine that gets slower slows all. mai
runs twice, with `kernels=auto` and with `kernels=reference`. The result goes to
benchmarks/results/step_<model>_<device>_<date>.json; `--profile` prints where mai's time goes instead.
"""

import argparse
import datetime as dt
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from benchmarks.machine import machine
from mai.engine import device as devices
from mai.engine.device import DeviceKind
from mai.model.families import llama
from mai.model.shapes import num_parameters
from mai.recipe import PrecisionConfig, Recipe
from recipes.quickstart import quickstart

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=sorted(MODELS), default="quickstart", help="layers: of Llama 3 8B, bf16")
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads on a CPU")
    parser.add_argument("--blocks", type=int, default=9, help="timed blocks of each; the medians are compared")
    parser.add_argument("--steps", type=int, default=4, help="steps of a block")
    parser.add_argument("--profile", action="store_true", help="print where mai's and plain's times differ, and stop")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    devices.prepare(arguments.device)
    recipe = MODELS[arguments.model]()
    loops = build(recipe, arguments.device)
    if arguments.profile:
        profile(loops["mai"], loops["plain"])
        return
    for step in loops.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(arguments.blocks):
        for name, step in loops.items():
            seconds[name].append(timed(step, arguments.steps, arguments.device))
    tokens = recipe.train.batch_tokens * arguments.steps
    result = {
        "what": "tokens per second of mai at one rank over a plain PyTorch loop",
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        **machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "model": arguments.model,
        "num_parameters": num_parameters(recipe.model),
        "precision": recipe.precision.compute,
        "blocks": arguments.blocks,
        "tokens_per_second": {name: round(tokens / statistics.median(found)) for name, found in seconds.items()},
        "mai_over_plain": spread(seconds["plain"], seconds["mai"]),
        "auto_over_reference": spread(seconds["mai, kernels=reference"], seconds["mai"]),
    }
    print(json.dumps(result, indent=2))
    name = f"step_{arguments.model}_{arguments.device}_{dt.date.today()}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n")
    dist.destroy_process_group()


def spread(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """How many times faster ours is, block by block."""
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
    }


def quickstart_model() -> Recipe:
    """The quick start's, which is small: it shows what the host does."""
    return alone(quickstart())


def layers_of_8b() -> Recipe:
    """Four layers of Llama 3 8B and a smaller vocabulary, which fit a card three times: it shows what the card does."""
    recipe = quickstart()
    return alone(
        replace(
            recipe,
            model=replace(llama.SIZES["8b"], num_layers=4, vocab_size=32768),
            data=replace(recipe.data, sequence_length=4096),
            train=replace(recipe.train, batch_tokens=4 * 4096),
            precision=PrecisionConfig(compute="bf16"),
        ),
        micro_batch_sequences=2,
    )


MODELS = {"quickstart": quickstart_model, "layers": layers_of_8b}


def alone(recipe: Recipe, **fields: int) -> Recipe:
    return replace(recipe, parallel=replace(recipe.parallel, tensor=1, pipeline=1, data=1, **fields))


def build(recipe: Recipe, device: DeviceKind) -> dict[str, Callable[[], None]]:
    """The loops; each call makes one step."""
    # Here and not above: Megatron-Core is imported for the device that was chosen.
    from benchmarks.plain_llama import PlainLoop
    from mai.batch import Batch
    from mai.engine import groups
    from mai.engine.engine import Engine
    from mai.objective import pretrain
    from mai.parallel.layout import Layout
    from mai.parallel.place import ALONE

    threads = torch.get_num_threads()
    opened = devices.open_device(device, ALONE)
    torch.set_num_threads(threads)
    groups.join_world(backend=opened.backend, place=ALONE, timeout_seconds=60)
    layout = Layout(tensor=1, pipeline=1, data=1)
    axes = groups.build_groups(layout, timeout_seconds=60)

    generator = torch.Generator().manual_seed(0)
    shape = (recipe.batch_sequences, recipe.data.sequence_length + 1)
    tokens = torch.randint(0, recipe.model.vocab_size, shape, generator=generator)
    batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    rate = recipe.optimizer.learning_rate

    def mai_step(kernels: Literal["auto", "reference"]) -> Callable[[], None]:
        engine = Engine(replace(recipe, kernels=kernels), layout, axes, opened)

        def step() -> None:
            engine.apply(engine.forward_backward(batch, pretrain.cross_entropy), learning_rate=rate)

        return step

    plain = PlainLoop(recipe, device=opened.torch_device)

    def plain_step() -> None:
        plain.step(
            batch.tokens_BS.to(opened.torch_device), batch.targets_BS.to(opened.torch_device), learning_rate=rate
        )

    return {"mai": mai_step("auto"), "mai, kernels=reference": mai_step("reference"), "plain": plain_step}


def timed(step: Callable[[], None], steps: int, device: str) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def profile(mai_step: Callable[[], None], plain_step: Callable[[], None]) -> None:
    """Print the operators in which the two loops differ most, in milliseconds of one step: medians of steps in turn."""
    ours, plain = [], []
    for _ in range(7):
        ours.append(operator_milliseconds(mai_step))
        plain.append(operator_milliseconds(plain_step))
    names = {name for step in (*ours, *plain) for name in step}
    rows = {name: (median_of(name, ours), median_of(name, plain)) for name in names}
    rows["all of these"] = (sum(a for a, _ in rows.values()), sum(b for _, b in rows.values()))
    print(f"{'operator':60}{'mai':>10}{'plain':>10}{'more':>10}")
    for name, (a, b) in sorted(rows.items(), key=lambda row: -abs(row[1][0] - row[1][1]))[:25]:
        print(f"{name[:58]:60}{a:10.1f}{b:10.1f}{a - b:10.1f}")


def operator_milliseconds(step: Callable[[], None]) -> dict[str, float]:
    """Time of each operator in one step: of each kernel on a card, its own on a CPU."""
    on_card = torch.cuda.is_initialized()
    activity = torch.profiler.ProfilerActivity.CUDA if on_card else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        step()
        if on_card:
            torch.cuda.synchronize()
    return {
        event.key: (event.self_device_time_total if on_card else event.self_cpu_time_total) / 1000
        for event in profiler.key_averages()
    }


def median_of(name: str, steps: list[dict[str, float]]) -> float:
    return statistics.median(step.get(name, 0.0) for step in steps)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
