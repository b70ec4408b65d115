"""How long one micro-batch takes through a layer, and through a stage, forward and backward."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from mai.parallel.stages import VirtualStage
from mai.plan.model import work
from mai.plan.model.architecture import Experts, Layer
from mai.plan.model.work import Work
from mai.plan.setting.setting import Setting
from mai.plan.time.network import (
    Group,
    between_copies_seconds,
    crossing_share_of_tokens,
    exchange_seconds,
    ring_seconds,
    sharing_groups,
)
from mai.plan.time.rates import Rates

_FORWARD_BYTES_OF_SCORES, _BACKWARD_BYTES_OF_SCORES = 13, 19
"""Read and written for each score without a fused attention, in bf16. Forward: written by the product (2), scaled,
masked and normalised (2 + 2), dropped with a mask of a byte (2 + 2 + 1), read by the product behind (2). Backward: the
gradient written (2), through the mask (2 + 1 + 2), through the softmax (2 + 2 + 2), read by two products (4), and the
weights once more (2)."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Seconds of one pass, by item."""

    products: float = 0.0
    attention: float = 0.0
    memory: float = 0.0
    """Time in which operations between products read and write memory."""
    tensor: float = 0.0
    context: float = 0.0
    expert: float = 0.0
    shards: float = 0.0
    """Waiting for weights, or for room for gradients, under full sharding."""
    host: float = 0.0
    """The GPU waits for the host."""

    @property
    def seconds(self) -> float:
        return float(sum(getattr(self, item) for item in ITEMS))

    def __add__(self, other: "Pass") -> "Pass":
        # Written out, as a search adds some hundred thousand.
        return Pass(
            self.products + other.products,
            self.attention + other.attention,
            self.memory + other.memory,
            self.tensor + other.tensor,
            self.context + other.context,
            self.expert + other.expert,
            self.shards + other.shards,
            self.host + other.host,
        )

    def __mul__(self, times: float) -> "Pass":
        return Pass(*(getattr(self, item) * times for item in ITEMS))


ITEMS = tuple(item.name for item in fields(Pass))


@dataclass(frozen=True, slots=True)
class Both:
    """A forward and a backward pass of the same, and what the backward pass computes once more before."""

    forward: Pass = Pass()
    backward: Pass = Pass()
    again: Pass = Pass()

    @property
    def all(self) -> Pass:
        return self.forward + self.backward + self.again

    def __add__(self, other: "Both") -> "Both":
        return Both(self.forward + other.forward, self.backward + other.backward, self.again + other.again)

    def __mul__(self, times: float) -> "Both":
        return Both(self.forward * times, self.backward * times, self.again * times)


class Passes:
    """How long one setting's layers and stages take."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._cut = setting.cut
        self._by_layer: dict[int, Both] = {}
        self._modules_by_layer: dict[int, Mapping[str, Both]] = {}
        num_gpus = setting.layout.world_size
        self._rates = Rates.of(setting.cluster.gpu, setting.precision, setting.software, num_gpus=num_gpus)
        # Output layers stay bf16 where the layers are FP8 (Transformer Engine's recipes; DeepSeek-V3, section 3.3).
        precision = "bf16" if self._rates.is_quantised else setting.precision
        self._end_rates = Rates.of(setting.cluster.gpu, precision, setting.software, num_gpus=num_gpus)

    def of_stage(self, virtual_stages: tuple[VirtualStage, ...]) -> Both:
        """All virtual stages of a stage, one after the other."""
        architecture = self._setting.architecture
        layers = Counter(architecture.layers[number] for each in virtual_stages for number in each.layers)
        passes = _sum(self.of_layer(layer) * number for layer, number in layers.items())
        if any(each.has_embedding for each in virtual_stages):
            passes += self._computed(work.of_embedding(architecture, self._cut), self._end_rates)
        if any(each.has_loss for each in virtual_stages):
            output = self._computed(work.of_output(architecture, self._cut), self._end_rates)
            passes += output * (1 + architecture.depths)
            if architecture.depths:
                depth = self._computed(work.of_depth(architecture, self._cut), self._rates)
                passes += (self.of_layer(architecture.layers[-1]) + depth) * architecture.depths
        return passes

    def of_layer(self, layer: Layer) -> Both:
        # By identity: an equal layer of a recipe's model is the same one, and hashing all of it takes longer than this.
        if (known := self._by_layer.get(id(layer))) is None:
            known = self._by_layer[id(layer)] = self._of_layer(layer)
        return known

    def again_seconds(self, layer: Layer) -> Mapping[str, float]:
        """What the whole layer takes once more, and each of its modules: by the names of `parallel.recompute`."""
        modules = {name: module.forward.seconds for name, module in self._modules(layer).items()}
        return modules | {"layer": self.of_layer(layer).forward.seconds}

    def _modules(self, layer: Layer) -> Mapping[str, Both]:
        if (known := self._modules_by_layer.get(id(layer))) is None:
            works = work.of_layer(self._setting.architecture, layer, self._cut)
            known = {name: self._computed(of, self._rates) + self._sent(name, layer) for name, of in works.items()}
            self._modules_by_layer[id(layer)] = known
        return known

    def _of_layer(self, layer: Layer) -> Both:
        modules = self._modules(layer)
        whole = _sum(modules.values())
        whole = Both(self._with_context(whole.forward, layer, 1), self._with_context(whole.backward, layer, 2))
        whole = Both(self._with_host(whole.forward, layer), self._with_host(whole.backward, layer))
        if self._setting.parallel.sharding == "full":
            whole = self._with_shards(whole, layer)
        return Both(whole.forward, whole.backward, self._recomputed(whole, modules))

    def _recomputed(self, whole: Both, modules: Mapping[str, Both]) -> Pass:
        recompute = self._setting.parallel.recompute
        if "layer" in recompute:
            return whole.forward
        return _sum(modules[name] for name in sorted(work.recomputed(modules, recompute))).forward

    def _computed(self, of: Work, rates: Rates) -> Both:
        setting = self._setting
        forward, backward = 0.0, 0.0
        for product in of.products:
            ahead, back = rates.product_seconds(product)
            busiest = self._cut.imbalance if product.is_grouped else 1.0
            forward += ahead * busiest
            backward += back * busiest
        traffic = setting.software.pace.traffic / rates.memory_bytes
        moved, moved_back = of.forward_bytes * traffic, of.backward_bytes * traffic
        attention = self._attended(of, rates) if of.scores else Both()
        return Both(Pass(forward, memory=moved), Pass(backward, memory=moved_back)) + attention

    def _attended(self, of: Work, rates: Rates) -> Both:
        cut, software = self._cut, self._setting.software
        if software.keeps.attention_scores:
            # What is ahead of a query is computed and thrown away.
            once = of.square_flops / rates.product_flops
            moved, moved_back = _FORWARD_BYTES_OF_SCORES, _BACKWARD_BYTES_OF_SCORES
            return Both(
                Pass(attention=once, memory=of.scores * moved / rates.memory_bytes),
                Pass(attention=2 * once, memory=of.scores * moved_back / rates.memory_bytes),
            )
        flops = of.square_flops if of.is_masked and software.pace.masks_windows else of.attention_flops
        if software.pace.masks_context and cut.context > 1:
            flops *= (2 * cut.context + 1) / (2 * cut.context)
        # Context ranks attend piece by piece.
        forward, backward = rates.attention_seconds(flops, length=cut.length / cut.context)
        return Both(Pass(attention=forward), Pass(attention=backward))

    def _sent(self, module: str, layer: Layer) -> Both:
        """What tensor and expert ranks exchange for a module."""
        if module in ("projections", "feed_forward", "shared_experts"):
            return self._tensor
        if module == "experts" and layer.experts is not None:
            return self._dispatched(layer.experts)
        return Both()

    @cached_property
    def _tensor(self) -> Both:
        """Into and out of matrices that tensor ranks share: a gather and a scatter of the hidden state, or what is the
        same, an all-reduce; with sequence parallelism, what came in is gathered once more for the matrix's gradient
        (Korthikanti et al., arXiv 2205.05198, section 4.2)."""
        setting, cut = self._setting, self._cut
        group, numbers = Group(cut.tensor), cut.tokens * setting.architecture.hidden
        scatter = ring_seconds(setting.cluster, group, numbers * cut.element_bytes)
        gather = scatter
        if self._rates.is_quantised and setting.software.pace.gathers_quantised:
            gather = ring_seconds(setting.cluster, group, numbers)
        exposed = 1 - setting.software.hides.tensor
        again = gather if cut.sequence else 0.0
        return Both(Pass(tensor=(gather + scatter) * exposed), Pass(tensor=(gather + scatter + again) * exposed))

    def _dispatched(self, experts: Experts) -> Both:
        """Tokens to their experts and back."""
        setting, cut = self._setting, self._cut
        parallel, software = setting.parallel, setting.software
        group = Group(parallel.expert, parallel.expert_tensor)
        width = experts.network.products[0].inputs
        num_bytes = cut.own_tokens * experts.per_token * width * cut.element_bytes
        share = 1.0
        if software.pace.sends_once_a_node:
            share = crossing_share_of_tokens(setting.cluster, group, ranks_per_token=experts.per_token)
        one = exchange_seconds(setting.cluster, group, num_bytes, crossing_share=share)
        # Ranks that share an expert's matrices gather what each of them was sent.
        one += ring_seconds(setting.cluster, Group(parallel.expert_tensor), num_bytes * parallel.expert_tensor)
        one *= cut.imbalance * (1 - software.hides.expert)
        return Both(Pass(expert=2 * one), Pass(expert=2 * one))

    def _with_context(self, one: Pass, layer: Layer, times: int) -> Pass:
        """Keys and values go around context ranks beside the attention; backward, so do their gradients."""
        setting, cut, attention = self._setting, self._cut, layer.attention
        numbers = attention.key_heads * (attention.key_size + attention.value_size) // cut.tensor
        num_bytes = cut.tokens * cut.context * numbers * cut.element_bytes
        group = Group(cut.context, cut.tensor)
        sent = times * ring_seconds(setting.cluster, group, num_bytes)
        return one + Pass(context=max(0.0, sent - setting.software.hides.context * one.attention))

    def _with_host(self, one: Pass, layer: Layer) -> Pass:
        pace = self._setting.software.pace
        host = pace.host_layer_microseconds if layer.experts is None else pace.host_expert_layer_microseconds
        if self._cut.tensor > 1:
            host += (4 if self._cut.sequence else 2) * pace.host_collective_microseconds
        return one + Pass(host=max(0.0, host * 1e-6 - one.seconds))

    def _with_shards(self, whole: Both, layer: Layer) -> Both:
        """Weights gathered before both passes, gradients scattered behind the backward one, beside the next layer."""
        setting, cut, hides = self._setting, self._cut, self._setting.software.hides
        of_dense, of_experts = sharing_groups(setting)
        groups = [(of_dense, setting.architecture.num_dense_parameters_on(cut.tensor, layer) * cut.element_bytes)]
        if layer.experts is not None:
            on_rank = layer.experts.num_parameters_on(expert=cut.expert, expert_tensor=cut.expert_tensor)
            groups.append((of_experts, on_rank * cut.element_bytes))
        gather = sum(ring_seconds(setting.cluster, group, num_bytes) for group, num_bytes in groups)
        summed = sum(between_copies_seconds(setting, group, num_bytes) for group, num_bytes in groups)
        return Both(
            whole.forward + Pass(shards=max(0.0, gather - hides.parameters * whole.forward.seconds)),
            whole.backward + Pass(shards=max(0.0, 2 * gather + summed - hides.gradients * whole.backward.seconds)),
        )


def _sum(passes: Iterable[Both]) -> Both:
    return sum(passes, start=Both())
