"""Every way to cut a model over a budget of GPUs that mai's rules let through, made rather than tried."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from mai.plan.setting.setting import Setting
from mai.recipe import ParallelConfig
from mai.recipe.parallel import Recomputed
from mai.recipe.pipeline_schedule import PipelineSchedule, schedule_of
from mai.recipe.stage_text import BALANCED, EVEN

_MICRO_BATCH_SIZES = (1, 2, 4, 8, 16)
_LEAST_TOKENS = 1024
"""The fewest tokens of a sequence that a context rank gets; fewer leave products too small for a GPU."""


Recomputation = tuple[Recomputed, ...]
"""What is computed again in the backward pass."""


class Degrees(NamedTuple):
    """How many ranks share what, and how many sequences go through at once."""

    tensor: int
    context: int
    pipeline: int
    virtual_stages: int
    expert: int
    expert_tensor: int
    micro_batch_sequences: int
    data: int

    @property
    def num_gpus(self) -> int:
        return self.tensor * self.context * self.pipeline * self.data

    @property
    def schedule(self) -> PipelineSchedule:
        return schedule_of(self.pipeline, self.virtual_stages)

    @property
    def without_data(self) -> "Degrees":
        """Equal for layouts that differ in the number of copies only."""
        return self._replace(data=0)


@dataclass(frozen=True, slots=True)
class Sharding:
    """What data-parallel ranks share out."""

    is_full: bool = False
    """Weights and gradients as well as optimizer states."""
    copies: int = 1
    """That hybrid sharding keeps equal."""


ZERO_1 = Sharding()


def degrees(setting: Setting, *, batch_sequences: int, num_gpus: int) -> list[Degrees]:
    """All legal ones that use at most so many GPUs, and more than half of what the largest one uses; none that cuts
    experts into more parts than all other matrices."""
    dense = list(_dense_degrees(setting, batch_sequences=batch_sequences, num_gpus=num_gpus))
    most = max((cut.num_gpus for cut in dense), default=0)
    experts = list(_expert_sizes(setting))
    return [
        cut._replace(expert=expert, expert_tensor=expert_tensor)
        for cut in dense
        if cut.num_gpus * 2 > most
        for expert, expert_tensor in experts
        if expert_tensor <= cut.tensor and cut.tensor * cut.context * cut.data % (expert * expert_tensor) == 0
    ]


def _dense_degrees(setting: Setting, *, batch_sequences: int, num_gpus: int) -> Iterator[Degrees]:
    """Without expert ranks."""
    stage_numbers = list(_stage_numbers(setting))
    micro_batches = {micro: batch_sequences // micro for micro in _MICRO_BATCH_SIZES if batch_sequences % micro == 0}
    shares = {micro: _divisors(batch) for micro, batch in micro_batches.items()}
    for micro, batch in micro_batches.items():
        for tensor in _tensor_sizes(setting):
            for context in _context_sizes(setting, tensor):
                for pipeline, virtual in stage_numbers:
                    # Every stage needs a micro-batch, and they divide into the schedule's groups
                    # (mai/recipe/rules/batch_rules.py).
                    most = min(num_gpus // (tensor * context * pipeline), batch // pipeline)
                    group = schedule_of(pipeline, virtual).micro_batch_group
                    for data in shares[micro]:
                        if data <= most and batch // data % group == 0:
                            yield Degrees(tensor, context, pipeline, virtual, 1, 1, micro, data)


def recomputations(setting: Setting) -> Iterator[Recomputation]:
    """Nothing, each module by itself, and whole layers."""
    layers = setting.architecture.kinds()
    yield ()
    yield ("norms",)
    if any(layer.experts is None for layer in layers):
        yield ("feed_forward",)
    if setting.architecture.has_experts:
        yield ("experts",)
    if any(layer.experts is not None and layer.experts.shared is not None for layer in layers):
        yield ("shared_experts",)
    yield ("attention_core",)
    yield ("layer",)


def shardings(setting: Setting, degrees: Degrees) -> list[Sharding]:
    """One copy over all ranks, or as many as let every copy stay inside a node or rack.

    Weights are shared out where there is no pipeline: in one they would be gathered for each of its micro-batches.
    """
    sharing = degrees.context * degrees.data
    expert_ranks = degrees.expert * degrees.expert_tensor
    most = math.gcd(sharing, degrees.tensor * sharing // expert_ranks if expert_ranks > 1 else sharing)
    inside = setting.cluster.scale_up.gpus // degrees.tensor
    copies = [number for number in _divisors(most) if 1 < sharing // number <= inside < sharing]
    whats = (False, True) if degrees.pipeline == 1 else (False,)
    return [Sharding(is_full, number) for is_full in whats for number in (1, *copies[:1])]


def parallel_of(
    setting: Setting, degrees: Degrees, recompute: Recomputation = (), sharding: Sharding = ZERO_1
) -> ParallelConfig:
    num_virtual_stages = degrees.pipeline * degrees.virtual_stages
    return ParallelConfig(
        tensor=degrees.tensor,
        sequence=degrees.tensor > 1,
        context=degrees.context,
        pipeline=degrees.pipeline,
        virtual_stages=degrees.virtual_stages,
        stages=EVEN if len(setting.architecture.layers) % num_virtual_stages == 0 else BALANCED,
        expert=degrees.expert,
        expert_tensor=degrees.expert_tensor,
        data=degrees.data,
        sharding="full" if sharding.is_full else "optimizer",
        sharding_ranks=None if sharding.copies == 1 else degrees.context * degrees.data // sharding.copies,
        recompute=recompute,
        micro_batch_sequences=degrees.micro_batch_sequences,
    )


def _tensor_sizes(setting: Setting) -> tuple[int, ...]:
    """Divisors of what tensor ranks cut, within the links of a node or rack."""
    cut = [setting.architecture.vocabulary, setting.cluster.scale_up.gpus, setting.sequence_length]
    for layer in setting.architecture.kinds():
        cut += [layer.attention.heads, layer.attention.key_heads]
        cut += [layer.network.width] if layer.network is not None else []
    return _divisors(math.gcd(*cut))


def _context_sizes(setting: Setting, tensor: int) -> list[int]:
    """Each takes an early and a late part, which tensor ranks share."""
    length = setting.sequence_length
    return [
        context
        for context in _divisors(length)
        if context == 1 or (length % (2 * context * tensor) == 0 and length // context >= _LEAST_TOKENS)
    ]


def _stage_numbers(setting: Setting) -> Iterator[tuple[int, int]]:
    """Stages, and virtual stages of each, that hold the same: of layers or of layers with embedding and loss."""
    architecture = setting.architecture
    yield 1, 1
    if architecture.is_tied and architecture.depths:
        return
    layers = len(architecture.layers)
    for number in sorted({*_divisors(layers), *_divisors(layers + 2)}):
        for virtual in _divisors(number):
            if number // virtual > 1:
                yield number // virtual, virtual


def _expert_sizes(setting: Setting) -> Iterator[tuple[int, int]]:
    """Expert and expert-tensor ranks."""
    experts = [layer.experts for layer in setting.architecture.kinds() if layer.experts is not None]
    widths = [setting.cluster.scale_up.gpus, *(of.network.width for of in experts)] if experts else [1]
    has_bias = any(product.has_bias for of in experts for product in of.network.products)
    for expert in _divisors(math.gcd(*(of.number for of in experts)) or 1):
        for expert_tensor in (1,) if has_bias else _divisors(math.gcd(*widths)):
            yield expert, expert_tensor


@cache
def _divisors(number: int) -> tuple[int, ...]:
    low = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return tuple(sorted({*low, *(number // divisor for divisor in low)}))
