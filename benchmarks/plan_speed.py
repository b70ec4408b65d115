"""How long the planner takes: whole commands, and many simulated runs of the largest cluster on two processes.

python -m benchmarks.plan_speed

Times are of the wall; of commands the median of several, of the simulation one.
"""

import datetime as dt
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.start_up import median_seconds
from mai.plan.goodput.expected import PlannedRun, best_course
from mai.plan.goodput.failures import failure_names, load_failures
from mai.plan.goodput.simulation import random_failures, simulate

RESULTS = Path(__file__).parent / "results"
DENSE = ["mai1_500b", "--hardware", "h100", "--gpus", "15000"]
EXPERTS = ["mai1_500b_moe", *DENSE[1:]]
COMMANDS = [
    DENSE,
    [*DENSE, "--failures", "llama3"],
    [*DENSE, "--prove-schedule"],
    [*EXPERTS, "--prove-schedule"],
    [*DENSE, "--search"],
]
RUNS = 5
DAY = 86_400.0
GPUS, DAYS, SIMULATED_RUNS, PROCESSES = 15_000, 90, 1000, 2


def main() -> None:
    plan = [sys.executable, "-m", "mai", "plan"]
    result: dict[str, Any] = {
        "what": "seconds of mai plan, median of whole processes; seconds of simulated runs",
        **machine(),
        "commands_seconds": {
            " ".join(["mai plan", *words]): median_seconds([*plan, *words], runs=RUNS) for words in COMMANDS
        },
        "simulation": {
            "days": DAYS,
            "gpus": GPUS,
            "runs": SIMULATED_RUNS,
            "processes": PROCESSES,
            "seconds": {name: simulation_seconds(name) for name in failure_names()},
        },
    }
    print(json.dumps(result, indent=2))
    (RESULTS / f"plan_speed_cpu_{dt.date.today()}.json").write_text(json.dumps(result, indent=2) + "\n")


def simulation_seconds(failures_name: str) -> float:
    """Of all runs, a share in each process, the start of the processes included."""
    started = time.perf_counter()
    share = partial(simulated, failures_name, runs=SIMULATED_RUNS // PROCESSES)
    with ProcessPoolExecutor(PROCESSES) as pool:
        list(pool.map(share, range(PROCESSES)))
    return round(time.perf_counter() - started, 3)


def simulated(failures_name: str, seed: int, *, runs: int) -> float:
    """Goodput of so many runs, with as many spares as Llama 3's rate nearly always leaves enough."""
    failures = load_failures(failures_name)
    run = PlannedRun(
        gpus=GPUS,
        gpus_per_node=8,
        spare_nodes=16,
        step_seconds=7.5,
        useful_seconds=DAYS * DAY,
        checkpoint_bytes=6 * 10**12,
    )
    draw = partial(random_failures, failures, GPUS)
    course = best_course(failures, run)
    return simulate(course, draw, wall_seconds=DAYS * DAY, runs=runs, seed=seed).goodput


if __name__ == "__main__":
    main()
