"""The router equals the papers' formulas, written out plainly."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mai.parallel.place import Place
from mai.recipe import MixtureOfExperts, ParallelConfig, Recipe
from recipes.debug.tiny import tiny
from tests.corpus import changed
from tests.parity.trainer import open_trainer
from tests.ranks import on_ranks

SEQUENCES, POSITIONS = 3, 10
MIXTRAL = MixtureOfExperts(
    num_experts=8, experts_per_token=2, ffn_hidden_size=16, routed_scale=1.5, auxiliary_loss="none"
)
DEEPSEEK = replace(MIXTRAL, scores="sigmoid", routed_scale=2.5, bias_update_rate=1e-3)
WEIGHT = 0.3


def routed(place: Place, experts: MixtureOfExperts, bias: list[float] | None) -> dict[str, Any]:
    """Runs on one rank: logits, and what the router makes of random hidden states [S, B, H]."""
    from mai.engine.experts import routers

    recipe = changed(tiny(), model={"feed_forward": experts, "num_layers": 1})
    engine = open_trainer(place, replace(recipe, parallel=ParallelConfig(data=1)), is_synthetic=True).engine
    (router,) = routers(engine._virtual_stages)
    router.weight.data.mul_(10)
    if bias is not None:
        router.expert_bias.copy_(torch.tensor(bias))
    generator = torch.Generator().manual_seed(0)
    hidden_SBH = torch.randn(POSITIONS, SEQUENCES, recipe.model.hidden_size, generator=generator)
    weight = router.weight.detach().clone().requires_grad_()
    logits_SBE = hidden_SBH @ weight.T
    weights_TK, experts_TK = router(hidden_SBH)
    weights_TE = torch.zeros(len(weights_TK), experts.num_experts).scatter(1, experts_TK, weights_TK)
    found = {"logits": logits_SBE, "weights": weights_TE}
    if experts.auxiliary_loss != "none":
        (found["gradient"],) = torch.autograd.grad((weights_TE * 0).sum(), router.weight)
        (found["plain_gradient"],) = torch.autograd.grad(plain_balancing_loss(logits_SBE, experts), weight)
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def plain_balancing_loss(logits_SBE: Tensor, experts: MixtureOfExperts) -> Tensor:
    """The mean over sequences, or over all tokens at once, of E * sum of f * P, as a sum over tokens.

    f is the share of the tokens' picks that an expert gets, P its mean score (arXiv 2101.03961, equations 4 to 6)."""
    if experts.scores == "softmax":
        scores_SBE = logits_SBE.softmax(-1)
    else:
        scores_SBE = logits_SBE.sigmoid() / logits_SBE.sigmoid().sum(-1, keepdim=True)
    groups = scores_SBE.unbind(1) if experts.auxiliary_loss == "sequence" else [scores_SBE.flatten(0, 1)]
    losses = []
    for scores_TE in groups:
        picks = scores_TE.topk(experts.experts_per_token).indices.flatten()
        share_E = torch.bincount(picks, minlength=experts.num_experts) / len(picks)
        losses.append(experts.num_experts * (share_E * scores_TE.mean(0)).sum())
    return WEIGHT * torch.stack(losses).mean() * SEQUENCES * POSITIONS


def test_softmax_is_over_the_picked_experts() -> None:
    """Mixtral (arXiv 2401.04088, section 2.1)."""
    found = {name: torch.from_numpy(each) for name, each in on_ranks(1, routed, MIXTRAL, None)[0].items()}
    largest = found["logits"].flatten(0, 1).topk(2)
    plain = torch.zeros(SEQUENCES * POSITIONS, 8).scatter(1, largest.indices, 1.5 * largest.values.softmax(-1))
    torch.testing.assert_close(found["weights"], plain)


def test_the_bias_chooses_and_the_sigmoid_scores_weigh() -> None:
    """DeepSeek-V3 (arXiv 2412.19437, equations 12 to 16)."""
    bias = [0.0, 0.4, -0.2, 0.1, 0.0, -0.4, 0.3, 0.0]
    found = {name: torch.from_numpy(each) for name, each in on_ranks(1, routed, DEEPSEEK, bias)[0].items()}
    scores = found["logits"].flatten(0, 1).sigmoid()
    picks = (scores + torch.tensor(bias)).topk(2).indices
    picked = scores.gather(1, picks)
    plain = torch.zeros_like(scores).scatter(1, picks, 2.5 * picked / picked.sum(-1, keepdim=True))
    torch.testing.assert_close(found["weights"], plain)
    assert not torch.equal(picks, scores.topk(2).indices), "this bias changes no choice"


@pytest.mark.parametrize("experts", [MIXTRAL, DEEPSEEK], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("counted_over", ["sequence", "micro_batch"])
def test_the_balancing_loss_has_the_gradient_of_its_formula(experts: MixtureOfExperts, counted_over: Any) -> None:
    experts = replace(experts, auxiliary_loss=counted_over, auxiliary_loss_weight=WEIGHT)
    bias = [0.0, 0.4, -0.2, 0.1, 0.0, -0.4, 0.3, 0.0] if experts.bias_update_rate else None
    found = on_ranks(1, routed, experts, bias)[0]
    gradient, plain = torch.from_numpy(found["gradient"]), torch.from_numpy(found["plain_gradient"])
    torch.testing.assert_close(gradient, plain, rtol=1e-4, atol=1e-6)
    assert plain.norm() > 0.1


def biases_after_a_step(place: Place, recipes: list[Recipe]) -> list[list[Any]]:
    """Runs on one rank: each layer's selection bias, of one recipe after another."""
    from mai.engine.experts import routers

    found = []
    for recipe in recipes:
        trainer = open_trainer(place, recipe, is_synthetic=True)
        trainer.step(0)
        found.append([router.expert_bias.tolist() for router in routers(trainer.engine._virtual_stages)])
        trainer.close()
    return found


def test_a_frozen_router_keeps_its_bias() -> None:
    recipe = changed(
        tiny(),
        model={"feed_forward": DEEPSEEK, "num_layers": 2},
        optimizer={"groups": ("decoder.layers.0.*:frozen",)},
    )
    shared_out = [ParallelConfig(data=1), ParallelConfig(data=1, sharding="full")]
    for frozen, other in on_ranks(1, biases_after_a_step, [replace(recipe, parallel=one) for one in shared_out])[0]:
        assert frozen == [0.0] * 8
        assert any(other)
