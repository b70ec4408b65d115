"""What a rank of the running engine allocates and multiplies, operation by operation: what the planner is held against.

A mode of torch sees every operation once, forward and backward, as a GPU would be given it: an operator of mai/kernels
counts as one, whatever its version for CPUs does inside.
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

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
    flops: Counter[str] = field(default_factory=Counter)
    """Of a whole step with one micro-batch, by operator."""


class Watch(TorchDispatchMode):
    """Counts operations while it is entered, and knows what they allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self._born: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, operation: Any, _: Any, given: Any = (), options: Any = None) -> Any:
        options = options or {}
        out = operation(*given, **options)
        formula: Any = _FLOPS.get(operation._overloadpacket)
        if formula is not None:
            self.flops[operation._overloadpacket.__name__] += formula(*given, **options, out_val=out)
        known = {storage._cdata for storage in _storages((given, options))}
        for storage in _storages(out):
            if storage._cdata not in known:
                self._born[storage._cdata] = StorageWeakRef(storage)
        return out

    def alive(self) -> dict[int, int]:
        """Bytes of every storage that is still there."""
        there = {key: weak for key, weak in self._born.items() if not weak.expired()}
        return {key: torch.UntypedStorage._new_with_weak_ptr(weak.cdata).nbytes() for key, weak in there.items()}


def _storages(values: Any) -> list[torch.UntypedStorage]:
    """Of what is full sharding's, this rank's own."""
    tensors = (x.to_local() if isinstance(x, DTensor) else x for x in tree_leaves(values))
    return [x.untyped_storage() for x in tensors if isinstance(x, torch.Tensor)]


def watched(place: Place, recipes: Mapping[Case, Recipe]) -> dict[Case, Counted]:
    """Runs on every rank: one step of each recipe, of one micro-batch."""
    return {case: _watched(place, recipe) for case, recipe in recipes.items()}


def _watched(place: Place, recipe: Recipe) -> Counted:
    from megatron.core.parallel_state import get_global_memory_buffer

    from mai.objective import pretrain
    from tests.parity.trainer import open_trainer

    counted = Counted()
    with Watch() as watch:
        trainer = open_trainer(place, recipe, is_synthetic=True)
        counted.held_bytes = sum(watch.alive().values())
        watch.flops.clear()
        batch = pretrain.batch_at(trainer.training, range(recipe.batch_sequences // trainer.layout.data))
        before, buffers = set(watch.alive()), get_global_memory_buffer()
        kept: dict[Any, int] = {}
        buffers.buffer.clear()

        def note(module: Any, *_: Any) -> None:
            alive = watch.alive()
            counted.buffer_bytes = sum(alive.pop(storage._cdata, 0) for storage in _storages(buffers.buffer))
            kept[module] = kept.get(module, sum(size for key, size in alive.items() if key not in before))
            before.update(alive)

        for module in trainer.engine._modules:
            module.register_forward_hook(note)
        trainer.engine.forward_backward(batch, pretrain.cross_entropy)
        counted.kept_bytes = [kept[module] for module in trainer.engine._modules]
        counted.flops = watch.flops
    trainer.close()
    return counted
