"""What a layout's step and memory cannot go below, from what many layouts share, so that a search looks closely at few.

A layer costs the same in every layout with the same tensor, context and expert ranks and the same micro-batch.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from operator import itemgetter

from mai.parallel.stages import VirtualStage, all_virtual_stages
from mai.plan.memory.kept import kept_of_layer
from mai.plan.memory.memory import CONTEXT_GIB, RESERVED_OVER_ALLOCATED
from mai.plan.memory.states import state_bytes
from mai.plan.model.weights import Held
from mai.plan.search.candidates import ZERO_1, Degrees, Recomputation, Sharding, parallel_of, recomputations
from mai.plan.setting.setting import Setting
from mai.plan.time.pass_time import Passes
from mai.plan.time.step_time import transfer_seconds


@dataclass(frozen=True, slots=True)
class _Stage:
    layers: tuple[tuple[int, int], ...]
    """By the number of their kind, how many: hashing a layer takes longer than all the rest."""
    has_embedding: bool
    has_loss: bool


@dataclass(frozen=True, slots=True)
class _Costs:
    """Seconds of a micro-batch, forward and backward."""

    layers: Mapping[Recomputation, Sequence[float]]
    """What each kind of layer takes, by what is computed again, that included."""
    embedding: float
    loss: float

    def of(self, stage: _Stage, recompute: Recomputation) -> float:
        layers = self.layers[recompute]
        seconds = stage.has_embedding * self.embedding + stage.has_loss * self.loss
        for kind, number in stage.layers:
            seconds += number * layers[kind]
        return seconds


class Floor:
    """What layouts of one model on one cluster cannot go below."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._full = replace(setting, parallel=replace(setting.parallel, sharding="full"))
        self._architecture = setting.architecture
        self._kinds = tuple(setting.architecture.kinds())
        self._recomputations = tuple(recomputations(setting))
        # A method's own cache would outlive the Floor.
        self._of_a_layer = cache(_of_a_layer)
        self._costs = cache(self._costs_of)
        self._stages = cache(self._stages_of)
        self._num_parameters = cache(self._num_parameters_of)
        self._held_bytes = cache(self._held_bytes_of)
        self._kept_bytes = cache(self._kept_bytes_of)

    def seconds(
        self, degrees: Degrees, num_micro_batches: int, recompute: Recomputation = (), sharding: Sharding = ZERO_1
    ) -> float:
        """Least seconds of a step: what micro-batches take on the slowest stage, and the bubble, without transfers
        between stages and without what happens once a step."""
        passes = self._passes(degrees, recompute, sharding)
        slowest = max(seconds for _, seconds, _ in passes)
        every = sum(seconds * number for _, seconds, number in passes)
        return num_micro_batches * slowest + degrees.schedule.bubble_seconds(every - slowest)

    def transfer_seconds(self, setting: Setting, degrees: Degrees, sharding: Sharding) -> float:
        """Once a step, of gradients and new weights of the slowest stage's layers, less what can hide them."""
        if sharding.is_full:
            return 0.0
        stage, seconds, _ = max(self._passes(degrees, setting.parallel.recompute, sharding), key=itemgetter(1))
        dense, experts = 0, 0
        for kind, number in stage.layers:
            on_rank = self._num_parameters(kind, degrees.tensor, degrees.expert, degrees.expert_tensor)
            dense += number * on_rank.dense
            experts += number * on_rank.experts
        hides, num_layers = setting.software.hides, sum(number for _, number in stage.layers)
        sent = sum(transfer_seconds(setting, Held(dense, experts), num_layers=num_layers))
        return max(0.0, sent - max(hides.gradients, hides.parameters) * seconds)

    def _passes(
        self, degrees: Degrees, recompute: Recomputation, sharding: Sharding
    ) -> list[tuple[_Stage, float, int]]:
        """Stages that differ, the seconds of each, and how many are alike."""
        # States that are shared out do not meet the passes; weights do, over all ranks that share them.
        costs = self._costs(degrees if sharding.is_full else self._of_a_layer(degrees), sharding)
        stages = self._stages(degrees.pipeline, degrees.virtual_stages)
        return [(stage, costs.of(stage, recompute), number) for stage, number in stages]

    def num_bytes(
        self, degrees: Degrees, num_micro_batches: int, recompute: Recomputation, sharding: Sharding
    ) -> float:
        """Least bytes of the first stage's ranks: weights, gradients, optimizer states, what its layers keep of the
        micro-batches in flight."""
        (first, _), *_ = self._stages(degrees.pipeline, degrees.virtual_stages)
        in_flight = degrees.schedule.most_in_flight(num_micro_batches)
        sharing = degrees.context * degrees.data // sharding.copies
        layer_degrees = self._of_a_layer(degrees)
        allocated = 0.0
        for kind, number in first.layers:
            held = self._held_bytes(kind, layer_degrees, sharing, is_full=sharding.is_full)
            allocated += number * (held + self._kept_bytes(kind, layer_degrees, recompute) * in_flight)
        return allocated * RESERVED_OVER_ALLOCATED + CONTEXT_GIB * 2**30

    def _costs_of(self, degrees: Degrees, sharding: Sharding) -> _Costs:
        parallel = parallel_of(self._setting, degrees, sharding=sharding if sharding.is_full else ZERO_1)
        passes = Passes(replace(self._setting, parallel=parallel))
        first, last = (VirtualStage(range(0), has_embedding=not is_last, has_loss=is_last) for is_last in (False, True))
        once = [(passes.of_layer(layer).all.seconds, passes.again_seconds(layer)) for layer in self._kinds]
        return _Costs(
            {
                recompute: [seconds + sum(again.get(module, 0.0) for module in recompute) for seconds, again in once]
                for recompute in self._recomputations
            },
            embedding=passes.of_stage((first,)).all.seconds,
            loss=passes.of_stage((last,)).all.seconds,
        )

    def _stages_of(self, pipeline: int, virtual_stages: int) -> list[tuple[_Stage, int]]:
        """And how many are alike, the first one first."""
        degrees = Degrees(1, 1, pipeline, virtual_stages, 1, 1, 1, 1)
        parallel, layers = parallel_of(self._setting, degrees), len(self._architecture.layers)
        every = all_virtual_stages(layers, parallel)
        stages = (self._stage_of(every[number::pipeline]) for number in range(pipeline))
        return [(stage, len(list(alike))) for stage, alike in groupby(stages)]

    def _stage_of(self, held: tuple[VirtualStage, ...]) -> _Stage:
        layers = Counter(self._architecture.layers[number] for each in held for number in each.layers)
        return _Stage(
            tuple((self._kinds.index(layer), number) for layer, number in layers.items()),
            has_embedding=any(each.has_embedding for each in held),
            has_loss=any(each.has_loss for each in held),
        )

    def _num_parameters_of(self, kind: int, tensor: int, expert: int, expert_tensor: int) -> Held:
        architecture, layer = self._architecture, self._kinds[kind]
        experts = architecture.num_expert_parameters({layer: 1}, expert=expert, expert_tensor=expert_tensor)
        return Held(architecture.num_dense_parameters_on(tensor, layer), experts)

    def _held_bytes_of(self, kind: int, degrees: Degrees, sharing: int, *, is_full: bool) -> int:
        """Weights, gradients and optimizer states of a layer, over so many ranks that share out one copy."""
        on_rank = self._num_parameters(kind, degrees.tensor, degrees.expert, degrees.expert_tensor)
        expert_sharing = sharing * degrees.tensor / (degrees.expert * degrees.expert_tensor)
        setting = self._full if is_full else self._setting
        return sum(state_bytes(setting, on_rank, (sharing, expert_sharing)).values())

    def _kept_bytes_of(self, kind: int, degrees: Degrees, recompute: Recomputation) -> int:
        """What a layer keeps of a micro-batch."""
        setting = replace(self._setting, parallel=parallel_of(self._setting, degrees, recompute))
        return kept_of_layer(setting, self._kinds[kind], recompute)


def _of_a_layer(degrees: Degrees) -> Degrees:
    """What decides about one, on as few ranks as can be; several where there are, as they wait for each other."""
    expert_ranks = degrees.expert * degrees.expert_tensor
    data = expert_ranks // math.gcd(expert_ranks, degrees.tensor * degrees.context) * (1 + (degrees.num_gpus > 1))
    return Degrees(
        tensor=degrees.tensor,
        context=degrees.context,
        pipeline=1,
        virtual_stages=1,
        expert=degrees.expert,
        expert_tensor=degrees.expert_tensor,
        micro_batch_sequences=degrees.micro_batch_sequences,
        data=data,
    )
