"""What ranks of the running engine send and receive in a step, call by call: what the planner's programs are held
against.

A mode of torch sees every call of the collective library, forward and backward, in the order in which it is posted.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from mai.parallel.place import Place
from mai.recipe import Recipe

Case = TypeVar("Case", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one rank."""

    kind: str
    ranks: tuple[int, ...]
    """Of its group; of a send or receive the two ends, the sender first."""
    elements: int
    """Of this rank's input; of what comes where nothing goes in."""
    dtype: str


_KINDS = {
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "alltoall_base_": "all_to_all",
    "alltoall_": "all_to_all",
    "broadcast_": "broadcast",
    "barrier": "barrier",
    "send": "send",
    "recv_": "receive",
}


class Recording(TorchDispatchMode):
    """Writes down every call of torch.distributed while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, operation: Any, _: Any, given: Any = (), options: Any = None) -> Any:
        if operation.namespace == "c10d":
            self.calls += _calls(operation._overloadpacket.__name__, given, operation._schema.arguments)
        return operation(*given, **(options or {}))


def _calls(name: str, given: Any, arguments: Any) -> list[Call]:
    by_name = {argument.name: value for argument, value in zip(arguments, given, strict=False)}
    group = dist.ProcessGroup.unbox(by_name["process_group"])
    ranks = tuple(dist.get_process_group_ranks(group))
    kind = _KINDS[name]
    here = dist.get_rank()
    if kind == "send":
        ranks = (here, ranks[by_name["dst"]])
    if kind == "receive":
        ranks = (ranks[by_name["src"]], here)
    inputs = _inputs(by_name)
    if name == "reduce_scatter_":  # a list of what goes to each rank
        inputs = [torch.cat([x.flatten() for x in inputs])]
    return [Call(kind, ranks, x.numel(), str(x.dtype).removeprefix("torch.")) for x in inputs]


def _inputs(by_name: Mapping[str, Any]) -> list[torch.Tensor]:
    for name in ("input_tensors", "input_tensor", "inputs", "input", "tensors", "tensor"):
        if name in by_name:
            return _flat(by_name[name])
    raise AssertionError(f"no input among {list(by_name)}")


def _flat(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [x for one in value for x in _flat(one)]


def recorded(place: Place, recipes: Mapping[Case, Recipe]) -> dict[Case, list[Call]]:
    """Runs on every rank: the calls of the second step of each recipe; the first one begins without new weights."""
    return {case: _recorded(place, recipe) for case, recipe in recipes.items()}


def _recorded(place: Place, recipe: Recipe) -> list[Call]:
    from tests.parity.trainer import open_trainer

    trainer = open_trainer(place, recipe, is_synthetic=True)
    trainer.step(0)
    with Recording() as recording:
        trainer.step(1)
    trainer.close()
    return recording.calls
