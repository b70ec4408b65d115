"""What one rank does from start to end, and with which exit code: the only place where foreign errors get our names."""

import contextlib
import errno
from collections.abc import Iterator

import torch

from mai.engine.device import DeviceKind
from mai.errors import ExitCode, OutOfMemoryError, PeerLostError, StorageError
from mai.parallel.place import Place
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from mai.train.run import Run

# How gloo and NCCL say that a peer's process is gone or silent (third_party/gloo/gloo/transport/tcp/pair.cc,
# torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp).
_PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "NCCL error")


def train(
    recipe: Recipe,
    folder: RunFolder,
    *,
    place: Place,
    device: DeviceKind,
    attempt: int | None = None,
    stop_at: int | None = None,
    dry_run: bool = False,
) -> ExitCode:
    """Run the recipe to its end, or to step `stop_at`; all ranks must call. Raises the MaiError that stopped it.

    `dry_run` builds everything, joins the ranks, loads the checkpoint, and stops before the first step."""
    with (
        foreign_errors_named(),
        Run(recipe, folder, place=place, device=device, attempt=attempt, dry_run=dry_run) as run,
    ):
        for result in run.steps():
            if result.step == stop_at:
                break
    return run.exit_code


@contextlib.contextmanager
def foreign_errors_named() -> Iterator[None]:
    """Turn what torch, gloo and the system raise for a known cause into the MaiError of that cause."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(
            f"out of memory: {error}; lower parallel.micro_batch_sequences, or raise parallel.tensor or "
            "parallel.pipeline so that each rank holds less"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise
        raise StorageError(
            f"{error.filename or 'storage'}: {error.strerror}; free or mend it, then start again"
        ) from error
    except RuntimeError as error:
        text = str(error)
        if not any(sign in text for sign in _PEER_LOST):
            raise
        raise PeerLostError(f"another rank is gone: {text.splitlines()[0]}") from error
