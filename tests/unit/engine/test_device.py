"""What a device tells of itself."""

import subprocess
import sys

import pytest

SCRIPT = "from mai.engine.device import Device; print(Device('cpu', 0).peak_memory_bytes())"


def test_the_peak_of_memory_is_the_process_s_own_not_the_one_that_it_was_started_from() -> None:
    held = bytearray(2 * 2**30)
    held[::4096] = b"x" * len(held[::4096])
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert 2**27 < int(told.stdout) < len(held) / 2


@pytest.mark.parametrize(
    ("local_rank", "count", "visible", "card"),
    [
        (0, 8, None, 0),
        (7, 8, None, 7),
        (3, 1, "5", 0),  # srun --gpus-per-task=1: each task sees a card of its own, as the first
        (3, 1, None, None),  # one card for four ranks, which NCCL refuses
        (3, 1, "", None),
        (3, 2, "0,1", None),
        (8, 8, None, None),
    ],
)
@pytest.mark.usefixtures("cpu_engine")
def test_a_rank_takes_the_card_of_its_number_or_the_only_one_that_it_is_shown(
    local_rank: int, count: int, visible: str | None, card: int | None
) -> None:
    from mai.engine.device import card_of

    assert card_of(local_rank, count, visible=visible) == card
