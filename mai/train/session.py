"""Who takes part in a run and what is asked of it from outside: the ranks, the run folder's lease, the signals."""

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from mai.collectives import collect_json, first_rank_does, max_int, tell_json
from mai.engine.device import DeviceKind, open_device
from mai.engine.groups import Groups, build_groups, join_world, leave_world
from mai.errors import RecipeError
from mai.parallel.layout import Layout
from mai.parallel.place import Place
from mai.recipe import Recipe, fingerprint
from mai.resilience.signals import StopRequest, StopSignals
from mai.run_folder import RunFolder, naming_storage_errors
from mai.train import claim

Result = TypeVar("Result")


class Session:
    """One rank's end of an attempt, from the meeting of all ranks to their parting.

    Every rank makes one and calls the same methods in the same order. Making it joins the other ranks and takes the run
    folder: RunFolderBusyError if a live process owns it, RecipeError if it keeps what another recipe trains."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, *, place: Place, device: DeviceKind, attempt: int | None
    ) -> None:
        """`attempt`: its number, where whoever started the ranks has begun it."""
        self.folder, self.place = folder, place
        self.layout = Layout.of(recipe.parallel, world_size=place.world_size)
        self.timeout_seconds = recipe.resilience.peer_timeout_seconds
        with contextlib.ExitStack() as resources:
            self._signals = resources.enter_context(StopSignals())
            self.device = open_device(device, place)
            join_world(backend=self.device.backend, place=place, timeout_seconds=self.timeout_seconds)
            resources.callback(leave_world)
            self.attempt: int = self.first_rank_does(
                "attempt", lambda: claim.take_folder(folder, recipe, place, attempt=attempt, held=resources)
            )
            self._check_same_recipe(recipe)
            self._resources = resources.pop_all()

    @property
    def is_first_rank(self) -> bool:
        return self.place.rank == 0

    def groups(self) -> Groups:
        """The process groups of the layout; all ranks must call, once."""
        return build_groups(self.layout, timeout_seconds=self.timeout_seconds)

    def first_rank_does(self, what: str, action: Callable[[], Result]) -> Result:
        """What `action` gives on the first rank, or raises, on every rank; each `what` is done once."""
        return first_rank_does(action, key=f"first/{what}", timeout_seconds=self.timeout_seconds)

    def request(self) -> StopRequest:
        """The most urgent thing that any rank was asked for; all ranks learn the same at the same step.

        Who is asked to save is asked once: the caller saves now."""
        own = self._signals.request()
        if self.is_first_rank and self.folder.stop.exists():
            own = max(own, StopRequest.STOPPED)
        agreed = StopRequest(max_int(own, device=self.device.torch_device))
        if agreed is StopRequest.SAVE:
            self._signals.forget_save()
        return agreed

    def _part(self) -> None:
        """Leave together: the first rank's process holds the store that all meet in."""
        if self.is_first_rank:
            with naming_storage_errors(self.folder.stop):
                self.folder.stop.unlink(missing_ok=True)
        tell_json(None, key="end", timeout_seconds=self.timeout_seconds)

    def close(self) -> None:
        """Let go of the folder, the ranks and the signals; no other rank is waited for."""
        self._resources.close()

    def event(self, kind: str, /, **fields: object) -> None:
        """One line in the attempt's events file, on the first rank."""
        if self.is_first_rank:
            self.folder.event(self.attempt, kind, **fields)

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an error no other rank is waited for: it may be the one that is gone. A rank among others ends now, and
        with it all that it holds; a notebook goes on."""
        lets_go = self.place.world_size == 1
        try:
            if error is None:
                self._part()
                lets_go = True
        finally:
            if lets_go:
                self.close()

    def _check_same_recipe(self, recipe: Recipe) -> None:
        found = collect_json(fingerprint(recipe), key="recipe", timeout_seconds=self.timeout_seconds) or [""]
        others = [rank for rank, other in enumerate(found) if other != found[0]]
        if others := tell_json(others, key="recipe/others", timeout_seconds=self.timeout_seconds):
            raise RecipeError(
                f"ranks {', '.join(map(str, others))} read another recipe than rank 0: "
                "give every rank the same command line and the same code"
            )
