"""Did the kernel's out-of-memory killer act? It kills like `kill -9` and leaves nothing but a counter."""

import re
from pathlib import Path

_MACHINE = Path("/proc/vmstat")


def num_oom_kills() -> int:
    """Processes that the out-of-memory killer has ended so far in our control group, else on this machine.

    Compare two readings; 0 where the kernel keeps no counter.
    """
    own = _own_counters()
    return _read(own if own.exists() else _MACHINE)


def _own_counters() -> Path:
    """cgroup v2's memory.events; the root group has none, and under cgroup v1 the path does not exist."""
    try:
        groups = Path("/proc/self/cgroup").read_text()
    except OSError:
        groups = ""
    unified = re.search(r"^0::/(.*)$", groups, re.MULTILINE)
    return Path("/sys/fs/cgroup", unified[1] if unified else "", "memory.events")


def _read(counters: Path) -> int:
    try:
        found = re.search(r"^oom_kill (\d+)$", counters.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) if found else 0
