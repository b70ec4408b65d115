"""Ranks that succeed, fail, hang and die in every way that tests/fault/test_local_launch.py makes claims about."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from launch.job import Job
from launch.local import run_ranks
from mai.errors import DataError, PeerLostError
from mai.parallel.place import Place
from mai.resilience.signals import StopRequest, StopSignals
from mai.run_folder import RunFolder

NUM_RANKS = 4
GRACE_SECONDS = 1.0


def launcher(function: str, folder: str) -> NoReturn:
    """The process under test."""
    run_folder = RunFolder(Path(folder))
    run_folder.create()
    attempt = run_folder.begin_attempt()
    rank_main = partial(globals()[function], Path(folder))
    job = Job(num_ranks=NUM_RANKS, rank_main=rank_main, folder=run_folder, attempt=attempt, grace_seconds=GRACE_SECONDS)
    sys.exit(run_ranks(job))


def ready(folder: Path, place: Place) -> None:
    (folder / f"ready-{place.rank}").touch()


def say(folder: Path, place: Place, text: str) -> None:
    (folder / f"said-{place.rank}").write_text(text)


def sleep_for_ever() -> NoReturn:
    while True:
        time.sleep(60)


def complete(_: Path, place: Place) -> int:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    sys.stdout.write(json.dumps([os.environ[name] for name in names]) + "\n")
    return 0 if place.world_size == NUM_RANKS else 1


def one_has_bad_data(_: Path, place: Place) -> int:
    if place.rank == 2:
        time.sleep(0.3)  # the victims end first
        raise DataError("shard 7 of data/web is damaged; prepare it again")
    raise PeerLostError("connection closed by peer")


def sleep(folder: Path, place: Place) -> int:
    ready(folder, place)
    sleep_for_ever()


def ignore_everything(folder: Path, place: Place) -> int:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    ready(folder, place)
    if place.rank == 1:
        return 81
    sleep_for_ever()


def ignore_everything_for_ever(folder: Path, place: Place) -> int:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    ready(folder, place)
    sleep_for_ever()


def ignore_the_first_request(folder: Path, place: Place) -> int:
    with StopSignals():
        ready(folder, place)
        sleep_for_ever()


def crash_when_a_peer_dies(folder: Path, place: Place) -> int:
    """As with gloo: whoever loses the connection fails with a RuntimeError that nobody translates."""
    if place.rank == 0:
        server = socket.create_server((place.master_address, place.master_port))
        ready(folder, place)
        _connections = [server.accept()[0] for _ in range(NUM_RANKS - 1)]
        sleep_for_ever()
    peer = connected(place)
    ready(folder, place)
    peer.recv(1)
    raise RuntimeError("connection closed by peer")


def connected(place: Place) -> socket.socket:
    peer = socket.socket()
    while peer.connect_ex((place.master_address, place.master_port)) != 0:
        time.sleep(0.01)
    return peer


def meet(_: Path, place: Place) -> int:
    if place.rank > 0:
        return len(connected(place).recv(1)) - 1
    time.sleep(0.3)
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((place.master_address, place.master_port))
    with socket.create_server((place.master_address, place.master_port)) as server:
        for _other in range(NUM_RANKS - 1):
            server.accept()[0].sendall(b"x")
    return 0


def stop_when_asked(folder: Path, place: Place) -> int:
    with StopSignals() as signals:
        ready(folder, place)
        while signals.request() < StopRequest.PREEMPTED:
            time.sleep(0.01)
        say(folder, place, str(signals.first_signal))
        return 87 if signals.request() is StopRequest.STOPPED else 210


def stop_when_one_was_asked(folder: Path, place: Place) -> int:
    with StopSignals() as signals:
        ready(folder, place)
        while not (folder / "said-1").exists():
            time.sleep(0.01)
            if signals.request():
                say(folder, place, str(signals.first_signal))
        return 210 if signals.request() else 0


def save_when_asked(folder: Path, place: Place) -> int:
    with StopSignals() as signals:
        ready(folder, place)
        while signals.request() is not StopRequest.SAVE:
            time.sleep(0.01)
        signals.forget_save()
        return int(signals.request())


def count_interrupts(folder: Path, place: Place) -> int:
    count = 0

    def count_one(*_: object) -> None:
        nonlocal count
        count += 1

    signal.signal(signal.SIGINT, count_one)
    ready(folder, place)
    while not (folder / "enough").exists():
        time.sleep(0.01)
    say(folder, place, str(count))
    return 87


def fail_by_mistake(_: Path, place: Place) -> int:
    sys.stdout.write(f"rank {place.rank} was here\n")
    if place.rank in (0, 3):
        raise ValueError(f"a mistake of rank {place.rank}")
    sleep_for_ever()


def fill_the_disk(_: Path, place: Place) -> int:
    if place.rank == 1:
        Path("/dev/full").write_text("x")
    sleep_for_ever()


def fall_off_memory(_: Path, place: Place) -> int:
    if place.rank == 1:
        ctypes.string_at(0)
    sleep_for_ever()


def take_all_memory(_: Path, place: Place) -> int:
    if place.rank == 1:
        bytearray(400 * 2**20)
    sleep_for_ever()


def end_with_an_unknown_code(_: Path, place: Place) -> int:
    os._exit(3 if place.rank == 1 else 213)


def leave_a_worker_behind(folder: Path, place: Place) -> int:
    worker = subprocess.Popen(["sleep", "60"])
    say(folder, place, str(worker.pid))
    return 0
