"""What a rank of the running engine allocates and multiplies, operation by operation: what the planner is held against.

A mode of torch sees every operation once, forward and backward, as a GPU would be given it: an operator of mai/kernels
counts as one, whatever its version for CPUs does inside.
"""

import itertools
import time
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from mai.batch import Batch
from mai.parallel.place import Place
from mai.recipe import Recipe

Case = TypeVar("Case", bound=Hashable)

_ATEN = torch.ops.aten
_FLOPS = {
    **flop_registry,
    # torch counts attention's kernels of GPUs only (utils/flop_counter.py, torch 2.11).
    _ATEN._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


@dataclass
class Counted:
    """Of one rank."""

    held_bytes: int = 0
    """Of a model that is built: weights, gradients, optimizer states."""
    buffer_bytes: int = 0
    """Of Megatron's buffers, which all layers and micro-batches share."""
    kept_bytes: list[int] = field(default_factory=list)
    """Alive behind the forward pass of one micro-batch and dead before it, by virtual stage."""
    peak_bytes: int | None = None
    """The most that was alive at once in a step, what is held included."""
    flops: Counter[str] = field(default_factory=Counter)
    """Of a whole step, by operator."""


class Watch(TorchDispatchMode):
    """Counts operations while it is entered, and knows what they allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.peak_bytes: int | None = None
        """The most that was alive at once since this was set to 0; None spares the search."""
        # By their number: a later one may stand where an earlier one stood.
        self._born: dict[int, StorageWeakRef] = {}
        self._numbers = itertools.count()

    def __torch_dispatch__(self, operation: Any, _: Any, given: Any = (), options: Any = None) -> Any:
        options = options or {}
        out = operation(*given, **options)
        formula: Any = _FLOPS.get(operation._overloadpacket)
        if formula is not None:
            self.flops[operation._overloadpacket.__name__] += formula(*given, **options, out_val=out)
        known = {storage._cdata for storage in _storages((given, options))}
        born = {storage._cdata: storage for storage in _storages(out) if storage._cdata not in known}
        self._born |= {next(self._numbers): StorageWeakRef(storage) for storage in born.values()}
        if born and self.peak_bytes is not None:
            self.peak_bytes = max(self.peak_bytes, sum(self.alive().values()))
        return out

    def alive(self, *, besides: Sequence[torch.UntypedStorage] = ()) -> dict[int, int]:
        """Bytes of every storage that is still there, by its number."""
        others = {storage._cdata for storage in besides}
        self._born = {number: weak for number, weak in self._born.items() if not weak.expired()}
        return {number: _size(weak) for number, weak in self._born.items() if weak.cdata not in others}


def _size(weak: StorageWeakRef) -> int:
    storage: torch.UntypedStorage = torch.UntypedStorage._new_with_weak_ptr(weak.cdata)
    return storage.nbytes()


def _storages(values: Any) -> list[torch.UntypedStorage]:
    """Of what is full sharding's, this rank's own."""
    tensors = (x.to_local() if isinstance(x, DTensor) else x for x in tree_leaves(values))
    return [x.untyped_storage() for x in tensors if isinstance(x, torch.Tensor)]


def watched(place: Place, recipes: Mapping[Case, Recipe], peaks: Collection[Case]) -> dict[Case, Counted]:
    """Runs on every rank: one step of each recipe; of some the peak as well, which takes three times as long."""
    return {case: _watched(place, recipe, finds_peak=case in peaks) for case, recipe in recipes.items()}


def _watched(place: Place, recipe: Recipe, *, finds_peak: bool) -> Counted:
    from megatron.core.parallel_state import get_global_memory_buffer

    from mai.engine.engine import summed
    from mai.objective.pretrain import Pretrain
    from tests.parity.trainer import open_trainer

    counted = Counted()
    with Watch() as watch:
        trainer = open_trainer(place, recipe, is_synthetic=True)
        counted.held_bytes = sum(watch.alive().values())
        watch.flops.clear()
        batch = Pretrain().batch(trainer.training, range(recipe.batch_sequences // trainer.layout.data))
        before, buffers = set[int](), get_global_memory_buffer()
        kept: dict[Any, int] = {}
        buffers.buffer.clear()

        def note(module: Any, *_: Any) -> None:
            # The thread of gloo that ran a collective lets go of its tensors a moment after it is done.
            time.sleep(0.05)
            shared = _storages(buffers.buffer)
            counted.buffer_bytes = sum(storage.nbytes() for storage in shared)
            new = {number: size for number, size in watch.alive(besides=shared).items() if number not in before}
            kept.setdefault(module, sum(new.values()))
            before.update(new)

        # What a batch says of its tokens is the batch's own; no virtual stage keeps it.
        passes = trainer.engine._passes
        prepare = passes._prepared

        def prepared(*arguments: Any) -> Batch:
            filled_in = prepare(*arguments)
            before.update(watch.alive())
            return filled_in

        passes._prepared = prepared  # type: ignore[method-assign]
        for module in trainer.engine._virtual_stages:
            module.register_forward_hook(note)
        watch.peak_bytes = 0 if finds_peak else None
        trainer.engine.forward_backward(batch, summed)
        counted.peak_bytes = watch.peak_bytes
        counted.kept_bytes = [kept[module] for module in trainer.engine._virtual_stages]
        counted.flops = watch.flops
    trainer.close()
    return counted
