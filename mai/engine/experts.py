"""A feed-forward layer of experts: Megatron's MoELayer with our router, dispatcher, activation and balancing.

router -> all-to-all to the ranks that hold the experts -> all of a rank's networks at once -> all-to-all back
shared expert on every token, added
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.utils import replace_prefix_for_sharding
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_utils import get_default_pg_collection
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from torch import Tensor

from mai.engine.dispatcher import Dispatcher
from mai.engine.expert_matrices import GroupedLinear
from mai.engine.router import ExpertRouter
from mai.engine.routing_replay import Follower, OwnTokens, Picks, Recorder, own_micro_batches
from mai.engine.sharded_state import UpdateRules
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


class Experts(MegatronModule):
    """The experts of this rank: all first matrices at once, the activation with the router's weights, all second ones.

    Megatron's own need Transformer Engine or compute one expert after the other (transformer/moe/experts.py)."""

    def __init__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        activation_func: type[MegatronModule],
        pg_collection: ProcessGroupCollection,
        latent_size: int | None = None,
    ) -> None:
        super().__init__(config=config)
        width, features = latent_size or config.hidden_size, config.moe_ffn_hidden_size
        matrices = partial(
            GroupedLinear, num_local_experts=num_local_experts, config=config, pg_collection=pg_collection
        )
        self.linear_fc1 = matrices(width, 2 * features, cut_dim=0, num_parts=2)
        self.activation_func = activation_func(config=config)
        self.linear_fc2 = matrices(features, width, cut_dim=1)

    def forward(self, hidden_NH: Tensor, counts_E: Tensor, weight_N: Tensor) -> tuple[Tensor, None]:
        """Tokens by expert, how many each has (on the host), and what the router gave each. Where ranks share an
        expert, their sum is the result."""
        gate_and_up = self.linear_fc1(hidden_NH, counts_E)
        weighted = self.activation_func.weighted(gate_and_up, weight_N)
        return self.linear_fc2(weighted, counts_E, bias_weight_N=weight_N), None

    def sharded_state_dict(self, prefix: str = "", *arguments: Any, **options: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().sharded_state_dict(prefix, *arguments, **options)
        # Twice: the module, and what Megatron's SequentialMLP calls its list; our checkpoints have always had it so.
        replace_prefix_for_sharding(state, prefix, f"{prefix}experts.")
        return state


def expert_layer(experts: MixtureOfExperts, submodules: MLPSubmodules) -> ModuleSpec:
    """The feed-forward spec of a layer with experts; `submodules` are the activation of each network, and the
    matrices of a shared one."""
    shared = ModuleSpec(module=SharedExpertMLP, submodules=submodules) if experts.shared_ffn_hidden_size else None
    latent = {} if experts.latent_size is None else {"latent_size": experts.latent_size}
    return ModuleSpec(
        module=LatentMoELayer if latent else ExpertLayer,
        params=latent,
        submodules=MoESubmodules(
            router=partial(ExpertRouter, experts=experts),
            experts=ModuleSpec(module=Experts, params={"activation_func": submodules.activation_func, **latent}),
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
        # Megatron's word for scores over all experts, which it asks for where one is picked; our router does not ask.
        "moe_router_pre_softmax": experts.scores == "softmax"
        and (not experts.normalised or experts.experts_per_token == 1),
        "moe_ffn_hidden_size": experts.ffn_hidden_size,
        "moe_shared_expert_intermediate_size": experts.shared_ffn_hidden_size or None,
        "moe_shared_expert_gate": experts.shared_gate,
        "moe_layer_freq": [int(model.has_experts(layer)) for layer in range(model.num_layers)],
        "moe_token_dispatcher_type": "alltoall",
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none",
        # Megatron's own bias would move in the backward pass, and in skipped steps.
        "moe_router_enable_expert_bias": False,
    }


def routers(model: Sequence[MegatronModule]) -> Iterator[ExpertRouter]:
    """The routers of this rank's layers."""
    for virtual_stage in model:
        yield from (module for module in virtual_stage.modules() if isinstance(module, ExpertRouter))


def forget_counts(model: Sequence[MegatronModule]) -> None:
    """Before a step: what a step counted that was not applied must not move the bias later."""
    for router in routers(model):
        router.tokens_per_expert.zero_()


def own_counts(model: Sequence[Any], num_layers: int, num_experts: int) -> list[list[float]]:
    """How many of this rank's counted tokens picked each expert since `forget_counts`, by layer of the whole model,
    [num_layers, num_experts]; layers elsewhere, or without experts, have zeros. Further depths do not count.

    `model`: this rank's GPTModels."""
    counts = [[0.0] * num_experts for _ in range(num_layers)]
    for virtual_stage in model:
        for router in (module for module in virtual_stage.decoder.modules() if isinstance(module, ExpertRouter)):
            counts[router.layer_number - 1] = router.tokens_per_expert.tolist()
    return counts


def freeze_routers(model: Sequence[MegatronModule], rules: UpdateRules) -> None:
    """Routers whose weight is frozen by `optimizer.groups` keep their selection bias too; before weights are shared
    out."""
    for router in routers(model):
        router.is_frozen = rules[router.weight].is_frozen


@torch.no_grad()
def update_selection_bias(model: Sequence[MegatronModule]) -> None:
    """With the weights' update: move each expert's bias towards balance (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).

    All ranks must call."""
    biased = [router for router in routers(model) if router.expert_bias is not None and not router.is_frozen]
    if not biased:
        return
    counts_RE = torch.stack([router.tokens_per_expert for router in biased])
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
