"""What torch, gloo, NCCL and the system raise for a known cause, as the MaiError of that cause."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist

from mai.errors import STORAGE_ERRNOS, MaiError, OutOfMemoryError, PeerLostError, StorageError

# How gloo and NCCL say that a peer's process is gone or silent (third_party/gloo/gloo/transport/tcp/pair.cc,
# torch/csrc/distributed/c10d/NCCLUtils.cpp).
_PEER_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "remote process exited or there was a network error",
)


@contextlib.contextmanager
def foreign_errors_named() -> Iterator[None]:
    """Raise the MaiError of what the block raises, where the cause is known."""
    try:
        yield
    except Exception as error:
        named = as_mai_error(error)
        if named is None or named is error:
            raise
        raise named from error


def as_mai_error(error: BaseException) -> MaiError | None:
    """The error in our words; None where its cause is not known."""
    text = str(error).partition("\n")[0]
    if isinstance(error, MaiError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return OutOfMemoryError(
            f"out of memory: {text}; lower parallel.micro_batch_sequences, or raise parallel.tensor or "
            "parallel.pipeline so that each rank holds less"
        )
    if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
        return StorageError(f"{error.filename or 'storage'}: {error.strerror}; free or mend it, then start again")
    is_store_lost = isinstance(error, dist.DistNetworkError | dist.DistStoreError)
    if is_store_lost or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _PEER_LOST)):
        return PeerLostError(f"another rank is gone: {text}")
    return None
