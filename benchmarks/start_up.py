"""How long the command line takes to answer: whole processes, median of several.

python -m benchmarks.start_up
"""

import datetime as dt
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results"
COMMANDS = {
    "mai --help": ["--help"],
    "mai recipes": ["recipes"],
    "mai check quickstart": ["check", "quickstart"],
}
RUNS = 11


def main() -> None:
    seconds = {
        name: median_seconds([sys.executable, "-m", "mai", *words], runs=RUNS) for name, words in COMMANDS.items()
    }
    seconds["python -c pass"] = median_seconds([sys.executable, "-c", "pass"], runs=RUNS)
    result = {"what": "seconds until the command has answered, median of whole processes", **machine(), **seconds}
    print(json.dumps(result, indent=2))
    (RESULTS / f"start_up_cpu_{dt.date.today()}.json").write_text(json.dumps(result, indent=2) + "\n")


def median_seconds(command: list[str], *, runs: int) -> float:
    """Of the wall, from the start of the process to its end."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return round(statistics.median(times), 3)


if __name__ == "__main__":
    main()
