"""The few collectives outside the engine, over all ranks of the job: every rank must call each of them."""

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from mai.errors import ExitCode, MaiError, PeerLostError, error_of

Result = TypeVar("Result")


def sum_floats(values: list[float], *, device: torch.device) -> list[float]:
    """Element-wise sum over all ranks, in fp64, so that the order of the ranks does not show in fp32."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def max_int(value: int, *, device: torch.device) -> int:
    """The largest value of any rank: how flags are agreed on."""
    tensor = torch.tensor(value, dtype=torch.int64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())


def collect_json(value: Any, *, key: str, timeout_seconds: float) -> list[Any] | None:
    """Every rank's `value`, in rank order, on the first rank; None on the others.

    It goes over the rendezvous store and not over a collective, so that a dead rank gives a PeerLostError that names
    it after `timeout_seconds`, not a hang. `key` must be new in each call."""
    with _lost_store_named():
        store = dist.distributed_c10d._get_default_store()
        store.set(f"{key}/{dist.get_rank()}", json.dumps(value))
        if dist.get_rank() > 0:
            return None
        collected = []
        for rank in range(dist.get_world_size()):
            collected.append(json.loads(_wait_for(f"{key}/{rank}", rank, timeout_seconds)))
            # The store lives as long as the job: what was read must not pile up in it.
            store.delete_key(f"{key}/{rank}")
        return collected


def tell_json(value: Any, *, key: str, timeout_seconds: float) -> Any:
    """The first rank's `value`, on every rank; the others' argument is ignored. `key` must be new in each call.

    The first rank, whose process holds the store, waits until all have read: it may end right after."""
    with _lost_store_named():
        store, others = dist.distributed_c10d._get_default_store(), dist.get_world_size() - 1
        if dist.get_rank() > 0:
            told = json.loads(_wait_for(key, 0, timeout_seconds))
            if store.add(f"{key}/readers", 1) == others:
                store.set(f"{key}/read", "")
            return told
        store.set(key, json.dumps(value))
        if others:
            with contextlib.suppress(dist.DistStoreError):
                store.wait([f"{key}/read"], timedelta(seconds=timeout_seconds))
        for name in (key, f"{key}/readers", f"{key}/read"):
            store.delete_key(name)
        return value


def first_told(own: str | None, *, key: str, timeout_seconds: float) -> str | None:
    """What the first of the ranks that have something to tell has to tell, on every rank; None where none has.

    `key` must be new in each call."""
    told = collect_json(own, key=f"{key}/own", timeout_seconds=timeout_seconds)
    first = next((text for text in told or () if text is not None), None)
    return tell_json(first, key=f"{key}/first", timeout_seconds=timeout_seconds)  # type: ignore[no-any-return]


def first_rank_does(action: Callable[[], Result], *, key: str, timeout_seconds: float) -> Result:
    """Run `action` on the first rank and hand its JSON result to all; what it raises of ours, all raise.

    `key` must be new in each call."""
    answer: dict[str, Any] = {}
    if dist.get_rank() == 0:
        try:
            answer = {"result": action()}
        except MaiError as error:
            tell_json({"error": str(error), "code": error.code}, key=key, timeout_seconds=timeout_seconds)
            raise
    answer = tell_json(answer, key=key, timeout_seconds=timeout_seconds)
    if "error" in answer:
        raise error_of(ExitCode(answer["code"]), answer["error"])
    result: Result = answer["result"]
    return result


def _wait_for(key: str, rank: int, timeout_seconds: float) -> bytes:
    store = dist.distributed_c10d._get_default_store()
    try:
        store.wait([key], timedelta(seconds=timeout_seconds))
    except dist.DistStoreError as error:
        raise PeerLostError(f"rank {rank} did not report {key} within {timeout_seconds:.0f} s") from error
    return store.get(key)


@contextlib.contextmanager
def _lost_store_named() -> Iterator[None]:
    """The store lives in the first rank's process: when that is gone, so is the store."""
    try:
        yield
    except dist.DistNetworkError as error:
        raise PeerLostError(f"rank 0 is gone: {str(error).splitlines()[0]}") from error
