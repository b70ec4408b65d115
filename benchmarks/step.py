"""One rank of `mai` against other loops that train the same model: tokens per second, as ratios within one run.

    python -m benchmarks.step --device cpu --threads 1
    python -m benchmarks.step --device cuda --model layers_8b --one-at-a-time

All train the same sizes on the same tokens, in turn, block by block, so that a machine that gets slower slows all. A
model that does not fit the card several times is measured `--one-at-a-time`: each loop is built anew for its block. The
result goes to benchmarks/results/step_<model>_<device>_<date>.json; `--profile` prints where mai's time goes instead.
"""

import argparse
import datetime as dt
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.machine import machine
from benchmarks.step_models import MODELS
from mai.engine import device as devices
from mai.model.flops import FLOP_CONVENTION, flops_per_token
from mai.model.shapes import num_parameters

RESULTS = Path(__file__).parent / "results"
Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=sorted(MODELS), default="quickstart", help="see benchmarks/step_models.py")
    parser.add_argument("--loops", nargs="+", default=["mai", "reference", "plain"], help="benchmarks/step_loops.py")
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads on a CPU")
    parser.add_argument("--blocks", type=int, default=9, help="timed blocks of each; the medians are compared")
    parser.add_argument("--steps", type=int, default=4, help="steps of a block")
    parser.add_argument("--one-at-a-time", action="store_true", help="build each loop for its block, and free it")
    parser.add_argument("--profile", action="store_true", help="print where mai's and plain's times differ, and stop")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    devices.prepare(arguments.device)
    # Here and not above: Megatron-Core is imported for the device that was chosen.
    from benchmarks.step_loops import Loops

    recipe = MODELS[arguments.model]()
    loops = Loops(recipe, arguments.device)
    if arguments.profile:
        profile(loops.build("mai"), loops.build("plain"))
        return
    built: dict[str, Step] = {}
    seconds: dict[str, list[float]] = {name: [] for name in arguments.loops}
    for _ in range(arguments.blocks):
        for name in arguments.loops:
            if name not in built:
                built[name] = loops.build(name)
                timed(built[name], 2, arguments.device)
            seconds[name].append(timed(built[name], arguments.steps, arguments.device))
            if arguments.one_at_a_time:
                del built[name]
                gc.collect()
                torch.cuda.empty_cache()
    rates = {
        name: recipe.train.batch_tokens * arguments.steps / statistics.median(found) for name, found in seconds.items()
    }
    flops = flops_per_token(recipe.model, recipe.data.sequence_length)
    result = {
        "what": "tokens per second of one rank, and how many times faster mai is",
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        **machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "model": arguments.model,
        "num_parameters": num_parameters(recipe.model),
        "precision": recipe.precision.compute,
        "sequence_length": recipe.data.sequence_length,
        "micro_batch_sequences": recipe.parallel.micro_batch_sequences,
        "batch_tokens": recipe.train.batch_tokens,
        "blocks": arguments.blocks,
        "one_at_a_time": arguments.one_at_a_time,
        "tokens_per_second": {name: round(rate) for name, rate in rates.items()},
        "tflops": {name: round(rate * flops / 1e12, 3) for name, rate in rates.items()},
        "flops_are": FLOP_CONVENTION,
        "mai_over": {name: spread(seconds[name], seconds["mai"]) for name in arguments.loops if name != "mai"},
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


def timed(step: Step, steps: int, device: str) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def profile(mai_step: Step, plain_step: Step) -> None:
    """Print the operators in which the two loops differ most, in milliseconds of one step: medians of steps in turn. Of
    a card also how long it worked."""
    if torch.cuda.is_initialized():
        mai_step()
        torch.cuda.synchronize()
        print(
            f"mai: a step takes {1000 * timed(mai_step, 5, 'cuda') / 5:.1f} ms, the card works for {busy(mai_step):.1f}"
        )
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


def busy(step: Step) -> float:
    """Milliseconds of a step in which some kernel runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    total = until = 0.0
    for start, end in sorted((event.time_range.start, event.time_range.end) for event in profiler.events()):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total / 1000


def operator_milliseconds(step: Step) -> dict[str, float]:
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
