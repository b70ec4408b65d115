"""One rank of `mai` against a plain PyTorch loop of the same model: tokens per second, as a ratio within one run.

    python -m benchmarks.step --device cpu --threads 1

Both train the same sizes on the same tokens, in turn, block by block, so that a machine that gets slower slows both.
The result goes to benchmarks/results/step_<device>_<date>.json; `--profile` prints where mai's time goes instead.
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
from typing import Any

import torch

from benchmarks.machine import machine
from mai.engine import device as devices

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads on a CPU")
    parser.add_argument("--blocks", type=int, default=9, help="timed blocks of each; the medians are compared")
    parser.add_argument("--steps", type=int, default=4, help="steps of a block")
    parser.add_argument("--profile", action="store_true", help="print where the two loops' times differ, and stop")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    devices.prepare(arguments.device)
    mai_step, plain_step, recipe = build(arguments.device)
    if arguments.profile:
        profile(mai_step, plain_step)
        return
    for step in (mai_step, plain_step):
        step()
    mai_seconds, plain_seconds = [], []
    for _ in range(arguments.blocks):
        mai_seconds.append(timed(mai_step, arguments.steps, arguments.device))
        plain_seconds.append(timed(plain_step, arguments.steps, arguments.device))
    tokens = recipe.train.batch_tokens * arguments.steps
    ratios = [plain / ours for ours, plain in zip(mai_seconds, plain_seconds, strict=True)]
    result = {
        "what": "tokens per second of mai at one rank over a plain PyTorch loop",
        "device": arguments.device,
        **machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "precision": recipe.precision.compute,
        "blocks": arguments.blocks,
        "mai_tokens_per_second": round(tokens / statistics.median(mai_seconds)),
        "plain_tokens_per_second": round(tokens / statistics.median(plain_seconds)),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }
    print(json.dumps(result, indent=2))
    name = f"step_{arguments.device}_{dt.date.today()}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n")


def build(device: str) -> tuple[Callable[[], None], Callable[[], None], Any]:
    """Both loops over the quick start's model on one rank, and its recipe; each call makes one step."""
    # Here and not above: Megatron-Core is imported for the device that was chosen.
    from benchmarks.plain_llama import PlainLoop
    from mai.batch import Batch
    from mai.engine import groups
    from mai.engine.engine import Engine
    from mai.objective import pretrain
    from mai.parallel.layout import Layout
    from mai.parallel.place import ALONE
    from recipes.quickstart import quickstart

    recipe = quickstart()
    recipe = replace(recipe, parallel=replace(recipe.parallel, tensor=1, pipeline=1, data=1))
    threads = torch.get_num_threads()
    opened = devices.open_device(device, ALONE)
    torch.set_num_threads(threads)
    groups.join_world(backend=opened.backend, place=ALONE, timeout_seconds=60)
    layout = Layout(tensor=1, pipeline=1, data=1)
    engine = Engine(recipe, layout, groups.build_groups(layout, timeout_seconds=60), opened)
    plain = PlainLoop(recipe, device=opened.torch_device)

    generator = torch.Generator().manual_seed(0)
    shape = (recipe.batch_sequences, recipe.data.sequence_length + 1)
    tokens = torch.randint(0, recipe.model.vocab_size, shape, generator=generator)
    batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    rate = recipe.optimizer.learning_rate

    def mai_step() -> None:
        engine.apply(engine.forward_backward(batch, pretrain.cross_entropy), learning_rate=rate)

    def plain_step() -> None:
        plain.step(
            batch.tokens_BS.to(opened.torch_device), batch.targets_BS.to(opened.torch_device), learning_rate=rate
        )

    return mai_step, plain_step, recipe


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
    """Self time on the CPU of each operator in one step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step()
    return {event.key: event.self_cpu_time_total / 1000 for event in profiler.key_averages()}


def median_of(name: str, steps: list[dict[str, float]]) -> float:
    return statistics.median(step.get(name, 0.0) for step in steps)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
