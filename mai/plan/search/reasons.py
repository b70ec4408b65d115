"""Why one layout is slower than another: what each item of a step costs more, and which axes are to blame."""

from collections.abc import Callable
from dataclasses import dataclass

from mai.plan.search.search import Planned
from mai.plan.setting.setting import Setting

_MOST_CAUSES = 2


@dataclass(frozen=True, slots=True)
class Difference:
    """What one item of a step takes more in one layout than in another."""

    item: str
    seconds: float
    """Above 0 where the slower layout loses time."""
    cause: str
    """In words; empty where the layouts differ in nothing that the item depends on."""


def differences(slower: Planned, faster: Planned) -> list[Difference]:
    """Those of all items that differ, the largest first; together the difference of the steps."""
    items = dict.fromkeys([*slower.time.items_seconds, *faster.time.items_seconds])
    found = [
        Difference(item, slower.time.items_seconds.get(item, 0.0) - faster.time.items_seconds.get(item, 0.0), "")
        for item in items
    ]
    found.sort(key=lambda difference: (-abs(difference.seconds), difference.item))
    return [
        Difference(one.item, one.seconds, cause(one.item, slower.setting, faster.setting))
        for one in found
        if one.seconds
    ]


def cause(item: str, of: Setting, instead_of: Setting) -> str:
    """The strongest axes that this item depends on and the layouts differ on, in words."""
    told = (_WORDS[axis](of, instead_of) for axis in _DEPENDS_ON.get(item, ()))
    return ", ".join([words for words in told if words][:_MOST_CAUSES])


def _counted(number: Callable[[Setting], int], words: str) -> Callable[[Setting, Setting], str]:
    """`{number}` of the one, with `instead of` the other's; empty where they are equal."""

    def tell(of: Setting, instead_of: Setting) -> str:
        own, other = number(of), number(instead_of)
        text = words.format(number=f"{own:,}", s="" if own == 1 else "s", es="" if own == 1 else "es")
        return "" if own == other else f"{text} instead of {other:,}"

    return tell


def _recomputed(of: Setting, instead_of: Setting) -> str:
    own, other = of.parallel.recompute, instead_of.parallel.recompute
    names = [" and ".join(names).replace("_", " ") or "nothing" for names in (own, other)]
    return "" if own == other else f"{names[0]} recomputed instead of {names[1]}"


def _sharded(of: Setting, instead_of: Setting) -> str:
    own, other = of.parallel.sharding, instead_of.parallel.sharding
    return "" if own == other else "full sharding" if own == "full" else "no full sharding"


_WORDS: dict[str, Callable[[Setting, Setting], str]] = {
    "tensor": _counted(lambda of: of.layout.tensor, "each matrix on {number} rank{s}"),
    "context": _counted(lambda of: of.layout.context, "each sequence on {number} rank{s}"),
    "pipeline": _counted(lambda of: of.layout.pipeline, "{number} stage{s}"),
    "virtual_stages": _counted(lambda of: of.layout.virtual_stages, "{number} virtual stage{s} a stage"),
    "expert": _counted(lambda of: of.layout.expert, "the experts on {number} rank{s}"),
    "expert_tensor": _counted(lambda of: of.layout.expert_tensor, "each expert on {number} rank{s}"),
    "micro_batch": _counted(lambda of: of.parallel.micro_batch_sequences, "{number} sequence{s} at a time"),
    "micro_batches": _counted(lambda of: of.num_micro_batches, "{number} micro-batch{es}"),
    "data": _counted(lambda of: of.layout.data, "{number} data rank{s}"),
    "copies": _counted(lambda of: of.layout.sharding_copies, "states kept {number} time{s}"),
    "gpus": _counted(lambda of: of.layout.world_size, "{number} GPU{s}"),
    "recompute": _recomputed,
    "sharding": _sharded,
}

_OF_PRODUCTS = ("gpus", "tensor", "expert_tensor", "micro_batch", "context", "expert", "pipeline")
_OF_STATES = ("tensor", "pipeline", "expert", "data", "copies", "sharding")

_DEPENDS_ON = {
    "products": _OF_PRODUCTS,
    "attention": ("gpus", "tensor", "context", "pipeline"),
    "memory": _OF_PRODUCTS,
    "tensor": ("tensor", "context", "micro_batch", "gpus"),
    "context": ("context", "tensor", "gpus"),
    "expert": ("expert", "expert_tensor", "tensor", "context", "gpus"),
    "shards": ("sharding", "micro_batches", "data", "copies"),
    "host": ("micro_batches", "pipeline"),
    "recompute": ("recompute", "gpus"),
    "pipeline": ("pipeline", "virtual_stages", "micro_batches"),
    "bubble": ("pipeline", "virtual_stages", "micro_batches"),
    "gradients": _OF_STATES,
    "parameters": _OF_STATES,
    "optimizer": _OF_STATES,
}
"""What mai/plan/time/step_time.py and pass_time.py compute each item from, the strongest first."""
