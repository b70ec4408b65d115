"""How long one step takes, item by item."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from mai.plan import work
from mai.plan.activations import Cut
from mai.plan.network import Group, exchange_seconds, ring_seconds, send_seconds
from mai.plan.rates import Rates
from mai.plan.setting import Setting
from mai.plan.weights import held

_ELEMENT = 2
_OPTIMIZER_BYTES = 30


@dataclass(slots=True)
class Pass:
    """Seconds of one pass through a part, by item."""

    products: float = 0.0
    attention: float = 0.0
    memory: float = 0.0
    tensor: float = 0.0
    context: float = 0.0
    expert: float = 0.0
    host: float = 0.0
    shards: float = 0.0

    @property
    def seconds(self) -> float:
        return self.products + self.attention + self.memory + self.tensor + self.context + self.expert + self.host + self.shards

    def add(self, other: "Pass", times: float = 1.0) -> None:
        for item in self.__slots__:
            setattr(self, item, getattr(self, item) + times * getattr(other, item))


@dataclass(frozen=True, slots=True)
class StepTime:
    items: Mapping[str, float]
    """Seconds; together the step."""
    stages: tuple[tuple[float, float], ...]
    """Forward and backward of one micro-batch on each stage."""

    @property
    def seconds(self) -> float:
        return sum(self.items.values())


def cut_of(setting: Setting) -> Cut:
    parallel = setting.parallel
    return Cut(
        sequences=parallel.micro_batch_sequences,
        length=setting.sequence_length,
        element_bytes=_ELEMENT,
        context=parallel.context,
        tensor=parallel.tensor,
        sequence=parallel.sequence and parallel.tensor > 1,
        expert=parallel.expert,
        expert_tensor=parallel.expert_tensor,
    )


def step_time(setting: Setting) -> StepTime:
    clock = Clock(setting)
    return clock.step()


class Clock:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.cut = cut_of(setting)
        self.rates = Rates.of(setting.cluster.gpu, setting.precision, setting.software)
        bf16 = "bf16" if setting.precision in ("fp8", "fp4") else setting.precision
        self.ends_rates = Rates.of(setting.cluster.gpu, bf16, setting.software)

    def compute(self, of: work.Work, rates: Rates) -> tuple[Pass, Pass]:
        forward, backward = Pass(), Pass()
        once = sum(rates.product_seconds(product) for product in of.products)
        grouped = sum(rates.product_seconds(product) for product in of.grouped) * self.setting.imbalance
        forward.products = once + grouped
        backward.products = 2 * (once + grouped)
        forward.attention = of.attention_flops / rates.forward_flops
        backward.attention = 2.5 * of.attention_flops / rates.backward_flops
        forward.memory = of.forward_bytes * rates.traffic / rates.memory_bytes
        backward.memory = of.backward_bytes * rates.traffic / rates.memory_bytes
        return forward, backward

    @lru_cache
    def layer(self, layer):
        setting, cut, software = self.setting, self.cut, self.setting.software
        parallel, cluster = setting.parallel, setting.cluster
        forward, backward = self.compute(work.of_layer(setting.architecture, layer, cut), self.rates)
        hidden = setting.architecture.hidden * _ELEMENT
        # Into and out of attention and network: a gather and a scatter of the whole hidden state each.
        hides = software.hides
        if parallel.tensor > 1:
            group = Group(parallel.tensor)
            one = ring_seconds(cluster, group, cut.tokens * hidden)
            count = 4 if layer.network is not None else 2
            forward.tensor = count * one * (1 - hides.tensor)
            # With sequence parallelism, what came in is gathered once more for the weight's gradient.
            backward.tensor = count * one * (1 - hides.tensor) + (count / 2 * one * (1 - hides.tensor) if cut.sequence else 0)
        if parallel.context > 1:
            attention = layer.attention
            numbers = attention.key_heads * (attention.key_size + attention.value_size) // cut.tensor
            group = Group(parallel.context, parallel.tensor)
            one = ring_seconds(cluster, group, cut.tokens * parallel.context * numbers * _ELEMENT)
            forward.context = max(0.0, one - hides.context * forward.attention)
            backward.context = max(0.0, 2 * one - hides.context * backward.attention)
        if layer.experts is not None and parallel.expert > 1:
            rows = cut.own_tokens * layer.experts.per_token
            width = layer.experts.network.products[0].inputs * _ELEMENT
            group = Group(parallel.expert, parallel.expert_tensor)
            one = exchange_seconds(cluster, group, rows * width) * setting.imbalance
            forward.expert = 2 * one * (1 - hides.expert)
            backward.expert = 2 * one * (1 - hides.expert)
        pace = software.pace
        host = pace.host_layer_microseconds if layer.experts is None else pace.host_expert_layer_microseconds
        if parallel.tensor > 1:
            host += 4 * pace.host_collective_microseconds
        forward.host = max(0.0, host * 1e-6 - forward.seconds)
        backward.host = max(0.0, host * 1e-6 - backward.seconds)
        if parallel.sharding == "full":
            weights = setting.architecture.num_dense_parameters_on(parallel.tensor, layer)
            group = self.sharing_group()
            one = ring_seconds(cluster, group, weights * _ELEMENT)
            forward.shards = max(0.0, one - hides.parameters * forward.seconds)
            backward.shards = max(0.0, 2 * one - hides.gradients * backward.seconds)
        return forward, backward

    def sharing_group(self) -> Group:
        parallel, layout = self.setting.parallel, self.setting.layout
        sharing = layout.context * layout.data // layout.sharding_copies
        return Group(sharing, parallel.tensor)

    def recomputed(self, layer) -> float:
        forward, _ = self.layer(layer)
        recompute = self.setting.parallel.recompute
        if "layer" in recompute:
            return forward.seconds
        seconds = 0.0
        if "attention_core" in recompute:
            seconds += forward.attention
        return seconds

    def part(self, part) -> tuple[Pass, Pass, float]:
        setting = self.setting
        forward, backward, again = Pass(), Pass(), 0.0
        for number in part.layers:
            layer = setting.architecture.layers[number]
            ahead, back = self.layer(layer)
            forward.add(ahead)
            backward.add(back)
            again += self.recomputed(layer)
        ends = []
        if part.has_embedding:
            ends.append(work.of_embedding(setting.architecture, self.cut))
        if part.has_loss:
            ends.append(work.of_output(setting.architecture, self.cut))
        for of in ends:
            ahead, back = self.compute(of, self.ends_rates)
            forward.add(ahead)
            backward.add(back)
        return forward, backward, again

    def step(self) -> StepTime:
        setting = self.setting
        parallel, cluster, software = setting.parallel, setting.cluster, setting.software
        stages, totals, computed = [], [], []
        for stage in setting.stages:
            forward, backward, again = Pass(), Pass(), 0.0
            for part in stage:
                ahead, back, repeated = self.part(part)
                forward.add(ahead)
                backward.add(back)
                again += repeated
            stages.append((forward, backward, again))
            totals.append(forward.seconds + backward.seconds + again)
        slowest = max(range(len(stages)), key=totals.__getitem__)
        forward, backward, again = stages[slowest]
        micro = setting.num_micro_batches
        items = {}
        for item in Pass.__slots__:
            items[item] = micro * (getattr(forward, item) + getattr(backward, item))
        items["recompute"] = micro * again
        pipeline = parallel.pipeline
        if pipeline > 1:
            hidden = setting.architecture.hidden * _ELEMENT * self.cut.own_tokens
            stride = parallel.tensor * parallel.context * setting.layout.data
            send = send_seconds(cluster, stride, hidden)
            items["pipeline"] = micro * parallel.virtual_stages * 2 * 2 * send * (1 - software.hides.pipeline)
            items["bubble"] = (sum(totals) - totals[slowest]) / parallel.virtual_stages + 2 * (pipeline - 1) * send
        held_on = held(
            setting.architecture, setting.stages[slowest], tensor=parallel.tensor, expert=parallel.expert,
            expert_tensor=parallel.expert_tensor,
        )
        group = self.sharing_group()
        everyone = Group(setting.layout.context * setting.layout.data, parallel.tensor)
        holds = software.holds
        gradient = min(4, holds.gradient_bytes)
        if parallel.sharding != "full":
            scatter = ring_seconds(cluster, everyone, held_on.dense * gradient)
            gather = ring_seconds(cluster, everyone, held_on.dense * _ELEMENT)
            if held_on.experts:
                expert_group = Group(setting.layout.expert_data, parallel.expert * parallel.expert_tensor)
                scatter += ring_seconds(cluster, expert_group, held_on.experts * gradient)
                gather += ring_seconds(cluster, expert_group, held_on.experts * _ELEMENT)
            window = backward.seconds
            items["gradients"] = max(scatter * 0.05, scatter - software.hides.gradients * window)
            items["parameters"] = max(gather * 0.05, gather - software.hides.parameters * forward.seconds)
        shards = group.ranks
        expert_shards = max(1, setting.layout.expert_data // setting.layout.sharding_copies)
        items["optimizer"] = (
            (held_on.dense / shards + held_on.experts / expert_shards) * _OPTIMIZER_BYTES
        ) / self.rates.memory_bytes
        items["step"] = software.pace.step_milliseconds * 1e-3
        return StepTime(items, tuple((a.seconds, b.seconds + c) for a, b, c in stages))
