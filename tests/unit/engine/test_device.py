"""What a device tells of itself."""

import subprocess
import sys

SCRIPT = "from mai.engine.device import Device; print(Device('cpu', 0).peak_memory_bytes())"


def test_the_peak_of_memory_is_the_process_s_own_not_the_one_that_it_was_started_from() -> None:
    held = bytearray(2 * 2**30)
    held[::4096] = b"x" * len(held[::4096])
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert 2**27 < int(told.stdout) < len(held) / 2
