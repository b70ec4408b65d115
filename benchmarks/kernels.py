"""Each fused operation on a GPU beside its peers: time, share of the card's copy bandwidth, error.

    python -m benchmarks.kernels

Sizes are those of a layer of Llama 3 8B at 8,192 tokens, bf16; those of experts, of a layer of Qwen3-30B-A3B. A share
is the fewest bytes that the operation can move, over the time, over the bandwidth of a large copy on the same card in
the same run. Times are medians of 100 launches between device events, the host running ahead; what the host needs for a
call stands beside. Tensors are larger than the 50 MB of L2. Peers: torch eager, torch.compile, Megatron's own fusions,
and Liger and torchao where they are installed. The result goes to benchmarks/results/kernels_<card>_<date>.json.
"""

import argparse
import datetime as dt
import importlib.metadata
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.expert_cases import EXPERT_CASES
from benchmarks.kernel_case import Call, Case
from benchmarks.kernel_cases import CASES
from benchmarks.loss_cases import LOSS_CASES
from benchmarks.machine import machine
from mai.engine import device as devices

LINE = "{operation:35}{peer:24}{microseconds!s:>8} us  (host {host_microseconds!s:>6})  {share!s:>6}  error {error}"
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--launches", type=int, default=100)
    arguments = parser.parse_args()
    devices.prepare("cuda")
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)

    bandwidth, flops_per_second = copy_bandwidth(), product_rate()
    print(f"copy {bandwidth / 1e12:.2f} TB/s, bf16 product {flops_per_second / 1e12:.0f} TFLOP/s")
    rows = []
    for make in (*CASES, *LOSS_CASES, *EXPERT_CASES):
        if arguments.only not in make.__name__:
            continue
        for case in make():
            for peer, call in case.calls.items():
                rows.append(
                    measured(case, peer, call, launches=arguments.launches, bandwidth=bandwidth, rate=flops_per_second)
                )
                print(LINE.format(**rows[-1]))
        torch.cuda.empty_cache()
        write(rows, bandwidth=bandwidth, rate=flops_per_second)
    dist.destroy_process_group()


def write(rows: list[dict[str, Any]], *, bandwidth: float, rate: float) -> None:
    """After every group of cases, so that a run that is cut short leaves what it measured."""
    card = torch.cuda.get_device_name()
    result = {
        "what": "each fused operation and its peers: microseconds, share of the speed of light, relative error",
        "device": card,
        **machine(),
        "torch": torch.__version__,
        "versions": {name: version_of(name) for name in ("triton", "megatron-core", "liger-kernel", "torchao")},
        "copy_bytes_per_second": round(bandwidth),
        "bf16_flops_per_second": round(rate),
        "rows": rows,
    }
    name = f"kernels_{card.split()[1].lower()}_{dt.date.today()}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")


def measured(case: Case, peer: str, call: Call, *, launches: int, bandwidth: float, rate: float) -> dict[str, Any]:
    """Microseconds, and the share of what bytes and operations would need at least."""
    row: dict[str, Any] = {"operation": case.name, "peer": peer}
    try:
        out = call()
        error = None if case.exact is None else relative_error(out, case.exact())
        seconds, host_seconds = median_seconds(call, launches), seconds_of_host(call)
    except Exception as failure:  # noqa: BLE001 (a peer that fails is a row that says so)
        nothing = dict.fromkeys(("microseconds", "host_microseconds", "share"))
        return {**row, **nothing, "error": f"{type(failure).__name__}: {failure}"[:200]}
    least = max(case.least_bytes / bandwidth, case.flops / rate)
    return {
        **row,
        "microseconds": round(seconds * 1e6, 1),
        "host_microseconds": round(host_seconds * 1e6, 1),
        "share": round(least / seconds, 3),
        "error": None if error is None else float(f"{error:.2e}"),
    }


def relative_error(ours: Any, exact: Any) -> float:
    """Of all tensors together, by norm."""
    pairs = zip(tensors(ours), tensors(exact), strict=True)
    parts = [((a.double() - b.double()).square().sum(), b.double().square().sum()) for a, b in pairs]
    return float((sum(a for a, _ in parts) / sum(b for _, b in parts)).sqrt())


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value.detach()
    else:
        for entry in value:
            yield from tensors(entry)


def median_seconds(call: Call, launches: int) -> float:
    for _ in range(10):
        call()
    torch.cuda.synchronize()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(launches)]
    for begin, end in events:
        # A sleep of half a millisecond on the card lets the host run ahead, so that its time is not measured.
        torch.cuda._sleep(1_000_000)
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1000


def seconds_of_host(call: Call) -> float:
    """Median time after which a call returns, while the card still sleeps."""
    found = []
    for _ in range(30):
        torch.cuda.synchronize()
        torch.cuda._sleep(1_000_000)
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def copy_bandwidth() -> float:
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), 30)


def product_rate() -> float:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / median_seconds(lambda: a @ b, 30)


def version_of(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
