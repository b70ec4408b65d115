"""The router of a mixture of experts: which experts compute a token, and with which weight.

Megatron's own router (transformer/moe/router.py, TopKRouter, core 0.16.1) is not used, because it
- calls a kernel of Transformer Engine that is not there (moe_utils.py, te_general_gemm: NameError);
- scales the balancing loss by this rank's tokens where the loss is summed over tokens: over T tensor (sequence) and C
  context ranks it counts 1 / (T * C) of what one rank counts, and with B sequences in a micro-batch the per-sequence
  loss counts 1 / B (_apply_seq_aux_loss, attach_and_log_load_balancing_loss);
- moves the selection bias in the backward pass, so that a skipped step moves it too (finalize_model_grads.py).
Its base class, its balancing loss and its way to attach it to the backward pass are used; which experts a token goes to
it tells as a list, where Megatron's has a map over all of them.

Shapes: S positions and B sequences of this rank, T = S * B tokens, E experts, K picked ones.
"""

from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe.moe_utils import (
    MoEAuxLossAutoScaler,
    switch_load_balancing_loss_func,
)
from megatron.core.transformer.moe.router import Router
from torch import Tensor

from mai.engine.routing_replay import Follower, Recorder
from mai.kernels.routing import Rule
from mai.recipe import MixtureOfExperts


def rule_of(experts: MixtureOfExperts) -> Rule:
    """What the recipe says of the choice, as its operation takes it."""
    return Rule(
        experts_per_token=experts.experts_per_token,
        scores=experts.scores,
        scale=experts.routed_scale,
        is_normalised=experts.normalised,
        num_groups=experts.num_groups,
        groups_per_token=experts.groups_per_token,
        scores_per_group=experts.best_of_a_group,
    )


class ExpertRouter(Router):
    """Scores, choice, balancing loss, and the counts that the selection bias follows."""

    expert_bias: Tensor | None
    tokens_per_expert: Tensor
    """How many of this rank's counted tokens picked each expert in this step."""

    def __init__(
        self, config: TransformerConfig, pg_collection: ProcessGroupCollection, *, experts: MixtureOfExperts
    ) -> None:
        super().__init__(config=config, pg_collection=pg_collection)
        self.experts = experts
        self.is_frozen = False
        """Its weight is; then its selection bias stays as well."""
        self.rule = rule_of(experts)
        self.replay: dict[str, Recorder | Follower] = {}
        """By the name of the choice; see `choices`."""
        # Whole numbers, so that their sum over ranks is exact and no layout moves the bias otherwise.
        counts_E = torch.zeros(experts.num_experts, dtype=torch.int64)
        self.register_buffer("expert_bias", torch.zeros(experts.num_experts) if experts.bias_update_rate else None)
        self.register_buffer("tokens_per_expert", counts_E, persistent=False)

    @property
    def choices(self) -> tuple[str, str]:
        """Names of the two choices between experts that a layer makes: where tokens go, and what balance counts."""
        name = f"decoder.layers.{self.layer_number - 1}.mlp.router"
        return name, f"{name}.balance"

    def forward(self, hidden_SBH: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The experts of each token [T, K], after the weight of each [T, K].

        `padding_mask`: which tokens do not count, [S, B] bool (annotations.py): they are computed like all others and
        leave no trace in the balance."""
        return self.routing(self.gating(hidden_SBH), None if padding_mask is None else ~padding_mask.flatten())

    def gating(self, hidden_SBH: Tensor) -> Tensor:
        """Logits [S, B, E], in fp32: small differences decide where a token goes."""
        bias_E = None if self.bias is None else self.bias.float()
        return F.linear(hidden_SBH.float(), self.weight.float(), bias_E)

    def routing(self, logits_SBE: Tensor, counts_T: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weights [T, K] and picked experts [T, K] of each token; `counts_T`: which of them balance counts."""
        logits_TE = logits_SBE.flatten(0, 1)
        weights_TK, experts_TK = self._route(logits_TE, self.expert_bias, self.rule, choice=self.choices[0])
        # Once a token and step, also where the layer runs again in the backward pass: its first run has no gradients.
        if self.training and torch.is_grad_enabled():
            self.tokens_per_expert += self._map(experts_TK, counts_T).sum(dim=0)
            if self.experts.auxiliary_loss != "none":
                weights_TK = self._balanced(
                    weights_TK, logits_TE, experts_TK, counts_T, num_positions=logits_SBE.size(0)
                )
        return weights_TK, experts_TK

    def _route(self, logits_TE: Tensor, preference: Tensor | None, rule: Rule, *, choice: str) -> tuple[Tensor, Tensor]:
        routing = self.config.operations.routing
        weights_TK, experts_TK = routing(logits_TE, preference, rule)
        replay = self.replay.get(choice) if self.training else None
        if replay is not None:
            only_TE = torch.full_like(logits_TE, -torch.inf).scatter(1, replay.followed(experts_TK), 0)
            weights_TK, experts_TK = routing(logits_TE, only_TE, replace(rule, num_groups=1))
        return weights_TK, experts_TK

    def _map(self, experts_TK: Tensor, counts_T: Tensor | None) -> Tensor:
        """Which experts each token picked; none, where it does not count."""
        is_picked_TE = experts_TK.new_zeros((experts_TK.size(0), self.experts.num_experts), dtype=torch.bool)
        is_picked_TE.scatter_(1, experts_TK, value=True)
        return is_picked_TE if counts_T is None else is_picked_TE & counts_T[:, None]

    def _balanced(
        self,
        weights_TK: Tensor,
        logits_TE: Tensor,
        experts_TK: Tensor,
        counts_T: Tensor | None,
        *,
        num_positions: int,
    ) -> Tensor:
        """The weights, with the balancing loss attached: their backward pass is its backward pass too.

        Where not all tokens count, it is the loss of those that do, and weighs as much as they are: a step's gradient
        then holds the mean over all counted tokens of the balancing loss of their sequence, or micro-batch."""
        scores_TE = self._normalised_scores(logits_TE)
        if self.expert_bias is not None:
            # DeepSeek-V3 (arXiv 2412.19437, equations 17 and 18) counts what the scores alone would pick.
            _, experts_TK = self._route(
                logits_TE.detach(), None, replace(self.rule, num_groups=1), choice=self.choices[1]
            )
        # Per sequence: the experts of each sequence count as experts of their own, [S, B * E].
        num_rows = num_positions if self.experts.auxiliary_loss == "sequence" else scores_TE.size(0)
        counts = self._map(experts_TK, counts_T).view(num_rows, -1).sum(dim=0)
        dist.all_reduce(counts, group=self.tp_cp_group)
        num_tokens = num_rows * self.tp_cp_group.size()
        if counts_T is not None:
            # The loss divides twice by the number of all tokens, once for the share of each expert and once for the
            # mean score, and is multiplied with it once: of each sequence, the number that counts belongs there.
            counted = counts.view(-1, self.experts.num_experts).sum(dim=1) // self.experts.experts_per_token
            share_T = (counts_T.view(num_rows, -1) * (num_tokens / counted.clamp(min=1))).flatten()
            scores_TE = scores_TE * share_T[:, None]
        loss = switch_load_balancing_loss_func(
            probs=scores_TE.view(num_rows, -1),
            tokens_per_expert=counts,
            total_num_tokens=num_tokens,
            topk=self.experts.experts_per_token,
            num_experts=self.experts.num_experts,
            moe_aux_loss_coeff=self.experts.auxiliary_loss_weight,
        )
        # A step's loss is a sum over its tokens, divided in the end by their number: so is this one.
        return MoEAuxLossAutoScaler.apply(weights_TK, loss * num_tokens)  # type: ignore[no-any-return]

    def _normalised_scores(self, logits_TE: Tensor) -> Tensor:
        if self.experts.scores == "softmax":
            return logits_TE.softmax(dim=-1)
        scores_TE = logits_TE.sigmoid()
        return scores_TE / scores_TE.sum(dim=-1, keepdim=True)
