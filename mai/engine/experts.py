"""A feed-forward layer of experts: Megatron's MoELayer with our router, dispatcher, activation and balancing.

router -> all-to-all to the ranks that hold the experts -> one network after the other -> all-to-all back
shared expert on every token, added
"""

from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_utils import get_default_pg_collection
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from torch import Tensor

from mai.engine.dispatcher import Dispatcher
from mai.engine.router import ExpertRouter
from mai.engine.routing_replay import Follower, OwnTokens, Picks, Recorder, own_micro_batches
from mai.engine.whole_linear import WholeLinear
from mai.parallel.layout import Layout
from mai.recipe import MixtureOfExperts, ModelConfig


class ExpertLayer(MoELayer):
    """Megatron's with our dispatcher: its own __init__ chooses among its three by a word of the config."""

    def __init__(
        self,
        config: TransformerConfig,
        *arguments: Any,
        pg_collection: ProcessGroupCollection | None = None,
        **options: Any,
    ) -> None:
        # transformer/transformer_layer.py (core 0.16.1) hands the groups to Megatron's own class only.
        pg_collection = pg_collection or get_default_pg_collection()
        super().__init__(config, *arguments, pg_collection=pg_collection, **options)
        self.token_dispatcher = Dispatcher(
            self.num_local_experts, self.local_expert_indices, config=config, pg_collection=pg_collection
        )


class LatentMoELayer(ExpertLayer):
    """The same with a shorter vector for the experts: all of them share a projection down to it, and one back from it.

    Megatron's own (moe_latent_size, core 0.16.1) needs Transformer Engine."""

    def __init__(self, config: TransformerConfig, *arguments: Any, latent_size: int, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self.fc1_latent_proj = WholeLinear(config.hidden_size, latent_size, config=config)
        self.fc2_latent_proj = WholeLinear(latent_size, config.hidden_size, config=config)

    def preprocess(self, hidden_states: Tensor, probs: Tensor, routing_map: Tensor) -> Any:
        return super().preprocess(self.fc1_latent_proj(hidden_states), probs, routing_map)

    def postprocess(self, output: Tensor, shared_expert_output: Tensor | None) -> Tensor:
        out: Tensor = self.fc2_latent_proj(super().postprocess(output, None))
        return out if shared_expert_output is None else out + shared_expert_output


class Expert(MLP):
    """One network. Megatron's own forward pass (transformer/mlp.py, core 0.16.1) weighs the tokens in a pass of its
    own, and adds an expert's bias in place, which autograd refuses of the view that one tensor rank's output is."""

    def forward(self, hidden: Tensor, per_token_scale: Tensor) -> tuple[Tensor, None]:
        gate_and_up, bias = self.linear_fc1(hidden)
        if bias is not None:
            gate_and_up = gate_and_up + bias
        out, bias = self.linear_fc2(self.activation_func.weighted(gate_and_up, per_token_scale))
        return (out if bias is None else out + (bias * per_token_scale[:, None]).to(out.dtype)), None


class Experts(SequentialMLP):
    """The experts of this rank, one after the other: computing them at once needs a CUDA extension."""

    def __init__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        submodules: MLPSubmodules,
        pg_collection: ProcessGroupCollection,
        latent_size: int | None = None,
    ) -> None:
        # Their tokens come by all-to-all and not as a part of the sequence; with one expert-tensor rank Megatron-Core
        # warns of every matrix that it does not gather.
        config = copy(config)
        config.sequence_parallel = False
        config.hidden_size = latent_size or config.hidden_size
        super().__init__(0, config, submodules, pg_collection=pg_collection)
        self.num_local_experts = num_local_experts
        # `self.config`: SequentialMLP has set it to the experts' width.
        self.local_experts.extend(
            Expert(
                self.config,
                submodules,
                ffn_hidden_size=self.config.moe_ffn_hidden_size,
                is_expert=True,
                tp_group=pg_collection.expt_tp,
            )
            for _ in range(num_local_experts)
        )
        # `allreduce` means: a dense weight, held alike by all data-parallel ranks. Megatron-Core (tensor_parallel/
        # layers.py, core 0.16.1) clears it only where several ranks share out the experts. With one, but with another
        # number of tensor ranks for experts than for the rest, their gradients then lack the tensor ranks' sum, and
        # the gradient norm counts them once for each.
        for parameter in self.parameters():
            parameter.allreduce = False
            # What is not marked as cut counts in the gradient norm on the first tensor rank only (tensor_parallel/
            # layers.py, param_is_not_tensor_parallel_duplicate). The second bias of an expert is not cut, and other
            # tensor ranks hold those of other experts.
            parameter.tensor_model_parallel = True


def expert_layer(experts: MixtureOfExperts, submodules: MLPSubmodules) -> ModuleSpec:
    """The feed-forward spec of a layer with experts; `submodules` are the matrices and activation of each network."""
    shared = ModuleSpec(module=SharedExpertMLP, submodules=submodules) if experts.shared_ffn_hidden_size else None
    latent = {} if experts.latent_size is None else {"latent_size": experts.latent_size}
    return ModuleSpec(
        module=LatentMoELayer if latent else ExpertLayer,
        params=latent,
        submodules=MoESubmodules(
            router=partial(ExpertRouter, experts=experts),
            experts=ModuleSpec(module=Experts, submodules=submodules, params=latent),
            shared_experts=shared,
        ),
    )


def expert_fields(model: ModelConfig, layout: Layout) -> dict[str, Any]:
    """The part of TransformerConfig that speaks of experts.

    Balancing loss and selection bias are not in it: our router takes them from the recipe."""
    experts = model.experts
    ranks = {
        "expert_model_parallel_size": layout.expert,
        "expert_tensor_parallel_size": layout.expert_tensor,
    }
    if experts is None:
        return ranks
    return {
        **ranks,
        "num_moe_experts": experts.num_experts,
        "moe_router_topk": experts.experts_per_token,
        "moe_router_score_function": experts.scores,
        "moe_ffn_hidden_size": experts.ffn_hidden_size,
        "moe_shared_expert_intermediate_size": experts.shared_ffn_hidden_size or None,
        "moe_layer_freq": [int(model.has_experts(layer)) for layer in range(model.num_layers)],
        "moe_token_dispatcher_type": "alltoall",
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none",
        # Megatron's own bias would move in the backward pass, and in skipped steps.
        "moe_router_enable_expert_bias": False,
    }


def routers(model: Sequence[MegatronModule]) -> Iterator[ExpertRouter]:
    """The routers of this rank's layers."""
    for chunk in model:
        yield from (module for module in chunk.modules() if isinstance(module, ExpertRouter))


def forget_counts(model: Sequence[MegatronModule]) -> None:
    """Before a step: what a step counted that was not applied must not move the bias later."""
    for router in routers(model):
        if router.tokens_per_expert is not None:
            router.tokens_per_expert.zero_()


@torch.no_grad()
def update_selection_bias(model: Sequence[MegatronModule]) -> None:
    """With the weights' update: move each expert's bias towards balance (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).

    All ranks must call."""
    biased = [router for router in routers(model) if router.expert_bias is not None]
    if not biased:
        return
    counts_RE = torch.stack([router.tokens_per_expert for router in biased])  # type: ignore[misc]
    dist.all_reduce(counts_RE, group=biased[0].tp_dp_cp_group)
    # Against the mean, in whole numbers.
    direction_RE = torch.sign(counts_RE.sum(dim=1, keepdim=True) - counts_RE * counts_RE.size(1))
    for router, direction_E in zip(biased, direction_RE, strict=True):
        router.expert_bias += router.experts.bias_update_rate * direction_E


def record_routing(model: Sequence[MegatronModule]) -> None:
    """Write down the routing of the next step; for a rank that holds whole sequences."""
    for router in routers(model):
        router.replay = {choice: Recorder() for choice in router.choices}


def recorded_routing(model: Sequence[MegatronModule], *, micro_batch_sequences: int) -> Picks:
    """What was written down since `record_routing`."""
    return {
        choice: replay.written(micro_batch_sequences=micro_batch_sequences)
        for router in routers(model)
        for choice, replay in router.replay.items()
        if isinstance(replay, Recorder) and replay.has_any
    }


def replay_routing(
    model: Sequence[MegatronModule], picks: Picks, own: OwnTokens, *, micro_batch_sequences: int
) -> None:
    """Send the tokens of the next step where `picks` says."""
    for router in routers(model):
        router.replay = {
            choice: Follower(own_micro_batches(picks[choice], own, micro_batch_sequences=micro_batch_sequences))
            for choice in router.choices
            if choice in picks
        }
