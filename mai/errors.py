"""Every way a run can end, as an exit code and as an exception that carries it.

The codes avoid 0-2, 64-78 (sysexits), 126-192 and 255 (shell, 128 + signal), so that a scheduler can list them:
80-93 are permanent (fix something first), 210-219 are worth a requeue.
"""

import errno
from collections.abc import Sequence
from enum import IntEnum

STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE})
"""What an OSError carries where the storage is to blame."""


class ExitCode(IntEnum):
    """What the process tells its scheduler; `is_retryable` says whether a requeue can help."""

    COMPLETE = 0
    CRASH = 1
    USAGE = 2
    CONFIG = 80
    DATA = 81
    CHECKPOINT = 82
    ENVIRONMENT = 83
    REFUSED = 84
    BUSY = 85
    DIVERGED = 86
    STOPPED = 87
    PARITY = 88
    PREEMPTED = 210
    PREEMPTED_UNSAVED = 211
    PEER_LOST = 213
    HANG = 214
    NODE_BAD = 215
    STORAGE = 216
    OUT_OF_MEMORY = 218
    RENDEZVOUS = 219

    @property
    def is_retryable(self) -> bool:
        return self >= 210


class MaiError(Exception):
    """A failure with a cause that a person can act on: its text names what is wrong and the way out."""

    code = ExitCode.CRASH


class RecipeError(MaiError):
    """The recipe breaks rules; `violations` holds every breach, one line each, in the user's own key names."""

    code = ExitCode.CONFIG

    def __init__(self, *violations: str) -> None:
        self.violations: Sequence[str] = violations
        super().__init__("\n".join(violations))


class PlanError(MaiError):
    """The hardware that a plan is asked for cannot be read; `violations` holds every breach, one line each."""

    code = ExitCode.CONFIG

    def __init__(self, *violations: str) -> None:
        self.violations: Sequence[str] = violations
        super().__init__("\n".join(violations))


class DataError(MaiError):
    """The corpus, the tokenizer or the token shards are missing, damaged, or do not belong together."""

    code = ExitCode.DATA


class CheckpointError(MaiError):
    """A checkpoint is missing, damaged, or does not fit the recipe."""

    code = ExitCode.CHECKPOINT


class EnvironmentMismatchError(MaiError):
    """This machine or its libraries lack what the run needs, on every node alike."""

    code = ExitCode.ENVIRONMENT


class UsageError(MaiError):
    """The command line names something that is not there."""

    code = ExitCode.USAGE


class RefusedError(MaiError):
    """Going on would break a rule of safety, such as writing where everybody may write."""

    code = ExitCode.REFUSED


class RunFolderBusyError(MaiError):
    """Another live process owns the run folder."""

    code = ExitCode.BUSY


class DivergedError(MaiError):
    """The loss or the gradients are not finite, and a second look gave the same."""

    code = ExitCode.DIVERGED


class ParityError(MaiError):
    """A layout does not compute what one rank computes."""

    code = ExitCode.PARITY


class PeerLostError(MaiError):
    """Another rank of this job died or stopped answering."""

    code = ExitCode.PEER_LOST


class BadNodeError(MaiError):
    """Some ranks compute wrongly where others compute rightly: their machines are broken."""

    code = ExitCode.NODE_BAD


class StorageError(MaiError):
    """The storage refused a read or a write: full, read-only, or broken."""

    code = ExitCode.STORAGE


class OutOfMemoryError(MaiError):
    """The device or the machine has no memory left for this run."""

    code = ExitCode.OUT_OF_MEMORY


class RendezvousError(MaiError):
    """The ranks did not find each other in time."""

    code = ExitCode.RENDEZVOUS


def error_of(code: ExitCode, message: str) -> MaiError:
    """The exception that ends a run with this code: how one rank raises what another one met."""
    return next((error_type for error_type in MaiError.__subclasses__() if error_type.code == code), MaiError)(message)


def exit_code_of(error: BaseException) -> ExitCode:
    """The code for an exception that nobody caught."""
    if isinstance(error, MaiError):
        return error.code
    if isinstance(error, MemoryError):
        return ExitCode.OUT_OF_MEMORY
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.STOPPED
    if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
        return ExitCode.STORAGE
    return ExitCode.CRASH
