"""Stands in for `torch.cuda` inside Megatron-Core on a CPU: one device, one stream, nothing to wait for; and for the
two collectives in which gloo can do less than NCCL.

Only `cpu_adapter` brings this in. A name that is missing here is `torch.cuda`'s own, so that types resolve.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

_CPU = torch.device("cpu")


class Stream:
    """Work on a CPU is done when it is called: every wait is over at once."""

    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = _CPU

    def wait_stream(self, *_: Any) -> None: ...
    def wait_event(self, *_: Any) -> None: ...
    def synchronize(self) -> None: ...

    def record_event(self, *_: Any) -> "Event":
        return Event()

    def query(self) -> bool:
        return True


class Event:
    def __init__(self, *_: Any, **__: Any) -> None: ...
    def record(self, *_: Any) -> None: ...
    def wait(self, *_: Any) -> None: ...
    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: "Event") -> float:
        return 0.0


_STREAM = Stream()


def current_stream(*_: Any, **__: Any) -> Stream:
    return _STREAM


default_stream = current_stream


def stream(*_: Any) -> contextlib.nullcontext[None]:
    # Entered more than once by distributed/param_and_grad_buffer.py, as torch's may be.
    return contextlib.nullcontext()


device = stream


def nothing(*_: Any, **__: Any) -> None: ...


synchronize = empty_cache = set_device = set_stream = _lazy_init = nothing


def current_device() -> torch.device:
    # The CPU; the meta device where a model is built for its shapes (mai/check/build_without_memory.py).
    return torch.get_default_device()


def device_count() -> int:
    return 1


def is_available() -> bool:
    return False


def memory_allocated(*_: Any, **__: Any) -> int:
    return 0


max_memory_allocated = memory_reserved = memory_allocated


def _lazy_call(callback: Callable[[], None], **__: Any) -> None:
    # Megatron's random-state tracker queues its work with this and expects it to be done.
    callback()


def manual_seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def get_rng_state(*_: Any, **__: Any) -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, *_: Any, **__: Any) -> None:
    torch.set_rng_state(state)


class random:  # noqa: N801 (torch's name)
    get_rng_state = staticmethod(get_rng_state)
    set_rng_state = staticmethod(set_rng_state)


class _Generators:
    def __getitem__(self, _: int) -> torch.Generator:
        return torch.default_generator


default_generators = _Generators()


class nvtx:  # noqa: N801 (torch's name)
    range_push = staticmethod(nothing)
    range_pop = staticmethod(nothing)
    range = staticmethod(stream)


def all_gather(tensor_list: list[torch.Tensor], tensor: torch.Tensor, group: dist.ProcessGroup | None = None) -> None:
    """torch's, for parts of different lengths too: they travel as long as the longest."""
    length = max(part.size(0) for part in tensor_list)
    gathered = [part.new_empty(length, *part.shape[1:]) for part in tensor_list]
    dist.all_gather(gathered, _lengthened(tensor, length), group=group)
    for part, padded in zip(tensor_list, gathered, strict=True):
        part.copy_(padded[: part.size(0)])


def reduce_scatter(
    output: torch.Tensor, input_list: list[torch.Tensor], group: dist.ProcessGroup | None = None
) -> None:
    """torch's sum, for parts of different lengths too."""
    length = max(part.size(0) for part in input_list)
    summed = output.new_empty(length, *output.shape[1:])
    dist.reduce_scatter(summed, [_lengthened(part, length) for part in input_list], group=group)
    output.copy_(summed[: output.size(0)])


def _lengthened(part: torch.Tensor, length: int) -> torch.Tensor:
    padding = part.new_zeros(length - part.size(0), *part.shape[1:])
    return torch.cat([part, padding])


def __getattr__(name: str) -> Any:
    return getattr(torch.cuda, name)
