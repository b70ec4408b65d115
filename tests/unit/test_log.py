"""The log: one line per event on stderr, the first rank speaks, and nobody's absence matters."""

import subprocess
import sys

SPEAKS = """
import sys
from mai.log import log, set_up
set_up(int(sys.argv[1]))
set_up(int(sys.argv[1]))
log.info("saved")
log.warning("two\\nlines \\x1b[2J")
sys.exit(86)
"""


def speak(rank: int) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SPEAKS, str(rank)], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_the_first_rank_speaks_and_the_others_only_warn() -> None:
    first, other = speak(0), speak(3)
    assert [line.split(" ", 1)[1] for line in first] == [
        "INFO rank 0: saved",
        "WARNING rank 0: two\\x0alines \\x1b[2J",
    ]
    assert [line.split(" ", 1)[1] for line in other] == ["WARNING rank 3: two\\x0alines \\x1b[2J"]


def test_a_closed_stderr_does_not_change_the_exit_code() -> None:
    process = subprocess.Popen([sys.executable, "-c", SPEAKS, "0"], stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait() == 86
