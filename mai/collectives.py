"""The few collectives outside the engine, over all ranks of the job: every rank must call each of them."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mai.errors import ExitCode, MaiError, PeerLostError, error_of


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
    store = dist.distributed_c10d._get_default_store()
    store.set(f"{key}/{dist.get_rank()}", json.dumps(value))
    if dist.get_rank() > 0:
        return None
    return [json.loads(_wait_for(f"{key}/{rank}", rank, timeout_seconds)) for rank in range(dist.get_world_size())]


def tell_json(value: Any, *, key: str, timeout_seconds: float) -> Any:
    """The first rank's `value`, on every rank; the others' argument is ignored. `key` must be new in each call."""
    if dist.get_rank() == 0:
        dist.distributed_c10d._get_default_store().set(key, json.dumps(value))
        return value
    return json.loads(_wait_for(key, 0, timeout_seconds))


def _wait_for(key: str, rank: int, timeout_seconds: float) -> bytes:
    store = dist.distributed_c10d._get_default_store()
    try:
        store.wait([key], timedelta(seconds=timeout_seconds))
    except dist.DistStoreError as error:
        raise PeerLostError(f"rank {rank} did not report {key} within {timeout_seconds:.0f} s") from error
    return store.get(key)


def first_rank_does(action: Callable[[], Any], *, key: str, timeout_seconds: float) -> Any:
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
    return answer["result"]
