"""How an attempt that failed accounts for it in the run folder, where no launcher of ours does."""

import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from mai.errors import ExitCode, MaiError, exit_code_of
from mai.parallel.place import Place
from mai.run_folder import RunFolder, Terminal
from mai.train.foreign_errors import as_mai_error

# Time for the rank at fault to write its own account first: the others fail because it is gone.
_VICTIM_WAIT_SECONDS = 2.0


Standing = Callable[[], Mapping[str, Any]]


@dataclass(slots=True)
class Account:
    """What an attempt that fails is to say of itself."""

    standing: Standing | None = None
    """Where this rank stands; until it is built, nothing is known."""


@contextmanager
def accounted_for(folder: RunFolder, place: Place) -> Iterator[Account]:
    """Whatever ends the block by an exception leaves a terminal-<attempt>.json."""
    account = Account()
    # No rank passes the rendezvous before all have read this, and the new attempt begins after it.
    attempts_before = folder.last_attempt()
    try:
        yield account
    except BaseException as error:
        if place.world_size > 1 and code_of(error) is ExitCode.PEER_LOST:
            time.sleep(_VICTIM_WAIT_SECONDS)
        with suppress(MaiError):  # the storage may be what failed
            # An older attempt is not this one's to judge: it may be alive, and own the folder.
            if (attempt := folder.last_attempt()) > attempts_before:
                end = _end(error, account, place)
                folder.write_terminal(attempt, end)
                folder.event(attempt, "ended", rank=place.rank, code=end.code, name=end.name, step=end.step)
        raise


def code_of(error: BaseException) -> ExitCode:
    """The exit code of what nobody caught, torch's and the system's errors included."""
    return exit_code_of(as_mai_error(error) or error)


def message_of(error: BaseException) -> str:
    """One paragraph for people."""
    named = as_mai_error(error)
    return str(named) if named else f"{type(error).__name__}: {error}"


def _end(error: BaseException, account: Account, place: Place) -> Terminal:
    standing, code = account.standing() if account.standing else {}, code_of(error)
    is_told = as_mai_error(error) is not None
    return Terminal(
        code=code,
        name=code.name,
        culprit={"rank": place.rank, "host": platform.node(), "pid": os.getpid()},
        phase=standing.get("phase", "start"),
        step=standing.get("step", 0),
        last_committed_step=standing.get("last_committed_step"),
        evidence=message_of(error) if is_told else "".join(traceback.format_exception(error)),
        suggestion="do what the evidence says, then start the same command again",
    )
