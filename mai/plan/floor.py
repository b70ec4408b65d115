"""What a layout's step and memory cannot go below, from what many layouts share, so that a search looks closely at few.

A layer costs the same in every layout with the same tensor, context and expert ranks and the same micro-batch. Models
of one or two layers on one stage tell what each costs; the pipeline's arithmetic does the rest.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

from mai.parallel.stages import parts_of_stage
from mai.plan.activations import kept_bytes
from mai.plan.architecture import Architecture, Layer
from mai.plan.candidates import Choice, Degrees, parallel_of
from mai.plan.setting import Setting
from mai.plan.step_time import cut_of, step_time
from mai.recipe.parallel import Recomputed

_WEIGHT_BYTES = 2
_PLAIN = Choice(recompute=(), is_fully_sharded=False, copies=1)


@dataclass(frozen=True, slots=True)
class _Alone:
    """A model of one layer, and what each further layer adds to it."""

    architecture: Architecture
    further: tuple[tuple[Architecture, int], ...]
    """With one layer more, and how many of its kind the whole model has beside the first."""

    @classmethod
    def of(cls, architecture: Architecture) -> "_Alone":
        # The last one, which further depths of prediction are like.
        last = architecture.layers[-1]
        further = [
            (replace(architecture, layers=(layer, last)), number - (layer == last))
            for layer, number in architecture.kinds().items()
        ]
        return cls(replace(architecture, layers=(last,)), tuple(pair for pair in further if pair[1]))


class Floor:
    """Of one model on one cluster."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._alone = _Alone.of(setting.architecture)
        # A method's own cache would keep every Floor alive.
        self._pass_seconds = lru_cache(maxsize=None)(self._pass_seconds_of)
        self._first_layers = lru_cache(maxsize=None)(self._first_layers_of)
        self._num_parameters = lru_cache(maxsize=None)(self._num_parameters_of)
        self._kept_bytes = lru_cache(maxsize=None)(self._kept_bytes_of)

    def seconds(self, degrees: Degrees, num_micro_batches: int, recompute: tuple[Recomputed, ...] = ()) -> float:
        """Of a step: passes of the micro-batches through equal stages, and the bubble (arXiv 2104.04473, section 2.2),
        without anything that happens once a step."""
        expert_ranks = degrees.expert * degrees.expert_tensor
        data = expert_ranks // math.gcd(expert_ranks, degrees.tensor * degrees.context)
        alone = degrees._replace(data=data, pipeline=1, virtual_stages=1)
        rounds = num_micro_batches + (degrees.pipeline - 1) / degrees.virtual_stages
        return rounds * self._pass_seconds(alone, recompute) / degrees.pipeline

    def num_bytes(self, degrees: Degrees, num_micro_batches: int, choice: Choice) -> float:
        """Of the first stage's ranks: weights, gradients, optimizer states, and what its layers keep of the
        micro-batches in flight."""
        holds = self._setting.software.holds
        sharing = degrees.context * degrees.data // choice.copies
        expert_copies = degrees.tensor * degrees.context * degrees.data // (degrees.expert * degrees.expert_tensor)
        in_flight = min(num_micro_batches, degrees.pipeline)
        every, shared_out = _WEIGHT_BYTES + holds.gradient_bytes, holds.optimizer_bytes
        if choice.is_fully_sharded:
            every, shared_out = 0, every + shared_out
        num_bytes = 0.0
        for layer, number in self._first_layers(degrees.pipeline, degrees.virtual_stages).items():
            dense, experts = self._num_parameters(layer, degrees.tensor, degrees.expert, degrees.expert_tensor)
            num_bytes += number * (dense * (every + shared_out / sharing))
            num_bytes += number * (experts * (every + shared_out * choice.copies / expert_copies))
            kept = self._kept_bytes(layer, degrees._replace(pipeline=1, virtual_stages=1, data=1), choice.recompute)
            num_bytes += number * kept * in_flight
        return num_bytes

    def _pass_seconds_of(self, degrees: Degrees, recompute: tuple[Recomputed, ...]) -> float:
        """Forward and backward of one micro-batch through the whole model."""
        parallel = parallel_of(self._setting, degrees, replace(_PLAIN, recompute=recompute))
        setting = replace(self._setting, parallel=parallel, num_micro_batches=1)
        shortest = _of_one_stage(setting, self._alone.architecture)
        return shortest + sum(
            number * (_of_one_stage(setting, longer) - shortest) for longer, number in self._alone.further
        )

    def _first_layers_of(self, pipeline: int, virtual_stages: int) -> Counter[Layer]:
        layers = self._setting.architecture.layers
        degrees = Degrees(1, 1, pipeline, virtual_stages, 1, 1, 1, 1)
        parts = parts_of_stage(len(layers), parallel_of(self._setting, degrees, _PLAIN), 0)
        return Counter(layers[number] for part in parts for number in part.layers)

    def _num_parameters_of(self, layer: Layer, tensor: int, expert: int, expert_tensor: int) -> tuple[int, int]:
        """Dense ones, and those of experts."""
        architecture = self._setting.architecture
        experts = architecture.num_expert_parameters([layer], expert=expert, expert_tensor=expert_tensor)
        return architecture.num_dense_parameters_on(tensor, layer), experts

    def _kept_bytes_of(self, layer: Layer, degrees: Degrees, recompute: tuple[Recomputed, ...]) -> int:
        """Of a micro-batch; with anything recomputed, at least the layer's input."""
        cut = cut_of(replace(self._setting, parallel=parallel_of(self._setting, degrees, _PLAIN)))
        if recompute:
            return cut.own_tokens * self._setting.architecture.hidden * cut.element_bytes
        return kept_bytes(self._setting.architecture, layer, cut)


def _of_one_stage(setting: Setting, architecture: Architecture) -> float:
    (passes,) = step_time(replace(setting, architecture=architecture)).stages
    return sum(passes)
