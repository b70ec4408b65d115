"""How many bytes every pipeline stage's ranks need, item by item."""

from collections.abc import Mapping
from dataclasses import dataclass

from mai.plan.activations import Cut, kept_bytes
from mai.plan.weights import held
from mai.plan.setting import Setting


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Of one rank of a stage, in bytes; all ranks of a stage need the same, experts' imbalance aside."""

    stage: int
    items: Mapping[str, int]
    """What PyTorch's allocator hands out when most is in use; together `allocated`."""
    outside: int
    """Of the driver, of NCCL, and what the allocator holds back in pieces."""
    during_save: int
    """What a save adds."""

    @property
    def allocated(self) -> int:
        return sum(self.items.values())

    @property
    def needed(self) -> int:
        """Of the GPU's memory."""
        return self.allocated + self.outside


@dataclass(frozen=True, slots=True)
class Memory:
    stages: tuple[RankMemory, ...]
    usable: int | None
    """Bytes that the GPU gives to a process; None where nobody published it."""

    @property
    def largest(self) -> RankMemory:
        return max(self.stages, key=lambda rank: rank.needed)

    @property
    def fits(self) -> bool:
        return self.usable is None or self.largest.needed <= self.usable


def memory(setting: Setting) -> Memory:
    """Of every stage. A rough stand-in."""
    parallel, layout, software = setting.parallel, setting.layout, setting.software
    cut = Cut(
        sequences=parallel.micro_batch_sequences, length=setting.sequence_length, element_bytes=2,
        context=parallel.context, tensor=parallel.tensor, sequence=parallel.sequence, expert=parallel.expert,
        expert_tensor=parallel.expert_tensor,
    )
    shares = layout.context * layout.data // layout.sharding_copies
    expert_shares = max(1, layout.expert_data // layout.sharding_copies)
    is_full = parallel.sharding == "full"
    holds, stages = software.holds, []
    kept = {}
    for layer in setting.architecture.kinds():
        every = kept_bytes(setting.architecture, layer, cut)
        least = cut.own_tokens * setting.architecture.hidden * 2
        share = {"layer": 0.0, "experts": 0.5, "feed_forward": 0.5, "norms": 0.85, "shared_experts": 0.9, "attention_core": 0.95}
        kept[layer] = max(least, int(every * min([1.0, *(share[name] for name in parallel.recompute)])))
    for stage, parts in enumerate(setting.stages):
        on = held(setting.architecture, parts, tensor=parallel.tensor, expert=parallel.expert, expert_tensor=parallel.expert_tensor)
        items = {}
        for name, number, ranks in ("dense", on.dense, shares), ("experts", on.experts, expert_shares):
            over = ranks if is_full else 1
            items[f"weights of {name}"] = number * 2 // over
            items[f"gradients of {name}"] = number * holds.gradient_bytes // over
            items[f"optimizer states of {name}"] = number * holds.optimizer_bytes // ranks
        layers = [setting.architecture.layers[number] for part in parts for number in part.layers]
        in_flight = min(setting.num_micro_batches, parallel.pipeline - stage)
        if parallel.virtual_stages > 1:
            in_flight += (parallel.pipeline - 1) / parallel.virtual_stages
        items["activations"] = int(sum(kept[layer] for layer in layers) * in_flight)
        stages.append(RankMemory(stage, items, 3 * 2**30, 0))
    usable = setting.cluster.gpu.usable_memory_gib
    return Memory(tuple(stages), None if usable is None else int(usable * 2**30))
