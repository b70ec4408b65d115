"""Mixtures of experts and latent attention that do not fit themselves or their layout, and what people are told."""

from tests.house.sources import ROOT
from tests.unit.recipe.bad import Bad
from tests.unit.recipe.samples import experts, latent

OWN = ROOT / "docs/guides/your_own_part/parts.py"

BAD_MODELS = {
    # Kinds
    "kind without its fields": Bad(
        overrides="model.feed_forward.kind=experts",
        messages=(
            "model.feed_forward.num_experts: missing, and it has no default",
            "model.feed_forward.experts_per_token: missing, and it has no default",
            "model.feed_forward.ffn_hidden_size: missing, and it has no default",
        ),
    ),
    "field of latent attention in another kind": Bad(
        overrides="model.attention.key_value_rank=4",
        messages=(
            "model.attention.key_value_rank=4: model.attention.kind=grouped_query has no such field; ",
            "it belongs to model.attention.kind=latent",
        ),
    ),
    "field of experts in a dense model": Bad(
        overrides="model.feed_forward.num_experts=4",
        messages=(
            "model.feed_forward.num_experts=4: model.feed_forward.kind=dense has no such field; ",
            "it belongs to model.feed_forward.kind=experts",
        ),
    ),
    "field of a kind without its section": Bad(
        overrides="num_experts=4",
        messages=("num_experts=4: no such field; did you mean model.feed_forward.num_experts?",),
    ),
    "Python: out of range in a kind": Bad(
        edit="replace(base, model=replace(base.model, feed_forward="
        "MixtureOfExperts(num_experts=1, experts_per_token=1, ffn_hidden_size=0)))",
        messages=(
            "model.feed_forward.num_experts=1: must be at least 2; the nearest valid value is 2",
            "model.feed_forward.ffn_hidden_size=0: must be at least 1; the nearest valid value is 1",
        ),
    ),
    "Python: the kind of another section": Bad(
        edit="replace(base, model=replace(base.model, attention=DenseFeedForward()))",
        messages=("model.attention.kind=DenseFeedForward: must be one of grouped_query, latent",),
    ),
    # Latent attention
    "latent heads that share keys": Bad(
        overrides=latent().replace("num_kv_heads=4", "num_kv_heads=2"),
        messages=(
            "model.num_heads=4, model.num_kv_heads=2, model.attention.kind=latent: in latent attention every head has ",
            "its own key and value; use model.num_kv_heads=4, or model.attention.kind=grouped_query",
        ),
    ),
    "odd rotary part": Bad(
        overrides=latent(rotary_head_size=7),
        messages=("model.attention.rotary_head_size=7: must be even, because rotary positions turn pairs; use 6 or 8",),
    ),
    # Experts
    "more experts for a token than there are": Bad(
        overrides=experts(experts_per_token=9),
        messages=(
            "model.feed_forward.experts_per_token=9, model.feed_forward.num_experts=8: ",
            "a token can take each expert once; use 8 or less",
        ),
    ),
    "no layer with experts": Bad(
        overrides=experts(num_dense_layers=4),
        messages=(
            "model.feed_forward.num_dense_layers=4, model.num_layers=4: no layer is left for the experts; ",
            "use 3 or less, or model.feed_forward.kind=dense",
        ),
    ),
    "one expert that weighs 1": Bad(
        overrides=experts(experts_per_token=1),
        messages=(
            "model.feed_forward.experts_per_token=1, model.feed_forward.normalised=true: one picked expert weighs 1 ",
            "use model.feed_forward.normalised=false, or model.feed_forward.experts_per_token=2 or more",
        ),
    ),
    "groups judged by more than they have": Bad(
        overrides=experts(num_groups=4, groups_per_token=2, scores_per_group=3),
        messages=("model.feed_forward.scores_per_group=3, model.feed_forward.num_groups=4: a group has 2 experts",),
    ),
    "groups that hold too few": Bad(
        overrides=experts(experts_per_token=3, num_groups=4, groups_per_token=1, scores_per_group=1),
        messages=("its groups hold 2; use that or less",),
    ),
    "a gate without a shared expert": Bad(
        overrides=experts(shared_gate="true"),
        messages=("model.feed_forward.shared_gate=true, model.feed_forward.shared_ffn_hidden_size=0: there is no ",),
    ),
    "layers that are not there": Bad(
        overrides=f"{experts(dense_layers='4')} model.still_layers=9 model.window=8 model.global_layers=1,7",
        messages=(
            "model.feed_forward.dense_layers=4, model.num_layers=4: layers are counted from 0; use 3 or less",
            "model.still_layers=9, model.num_layers=4: ",
            "model.global_layers=1,7, model.num_layers=4: ",
        ),
    ),
    "every layer dense by name": Bad(
        overrides=experts(dense_layers="0,1,2,3"),
        messages=("model.feed_forward.dense_layers=0,1,2,3, model.num_layers=4: no layer is left for the experts",),
    ),
    "windows said twice": Bad(
        overrides="model.window=8 model.global_every=2 model.global_layers=1",
        messages=("model.global_layers=1, model.window=8, model.global_every=2: ",),
    ),
    "biases said twice": Bad(
        overrides="model.biases=true model.attention.biases=all",
        messages=("model.biases=true, model.attention.biases=all: model.biases has them everywhere",),
    ),
    "norms of all heads without norms": Bad(
        overrides="model.attention.norm_over=all_heads",
        messages=("model.attention.norm_over=all_heads, model.attention.qk_norm=false: ",),
    ),
    "no pair is turned": Bad(
        overrides="model.rotary_share=0.01",
        messages=("model.rotary_share=0.01, model.head_size=16: no pair of a head's 16 numbers is left; use 0.125 ",),
    ),
    "a base for windows that are not there": Bad(
        overrides="model.window_rotary_base=1000",
        messages=("model.window_rotary_base=1000.0, model.window=none: ",),
    ),
    "logits scaled twice": Bad(
        overrides="model.positions.kind=yarn model.positions.factor=4 model.positions.original_length=64 "
        "model.positions.softmax_scale=1 model.softmax_scale=0.5",
        messages=("model.softmax_scale=0.5, model.positions.softmax_scale=1.0: both say",),
    ),
    "divisors for pairs that are not there": Bad(
        overrides="model.positions.kind=long model.positions.short_factors=1,2 model.positions.long_factors=1,2 "
        "model.positions.original_length=64",
        messages=(
            "model.positions.short_factors=1.0,2.0, model.head_size=16: one number above 0 for each pair",
            "model.positions.long_factors=1.0,2.0, model.head_size=16: ",
        ),
    ),
    "recomputed norms that are not there": Bad(
        overrides="model.norms=after parallel.recompute=norms",
        messages=("parallel.recompute=norms, model.norms=after: ",),
    ),
    "a scale that another core does not know": Bad(
        overrides="model.softmax_scale=0.5 model.attention_core=somewhere.py:core",
        messages=(
            "model.softmax_scale=0.5, model.attention_core=somewhere.py:core: is of mai's attention core",
            "model.attention_core=somewhere.py:core: somewhere.py: No such file or directory",
        ),
    ),
    "bias without sigmoid": Bad(
        overrides=experts(bias_update_rate=1e-3),
        messages=(
            "model.feed_forward.bias_update_rate=0.001, model.feed_forward.scores=softmax: ",
            "use model.feed_forward.scores=sigmoid, or model.feed_forward.bias_update_rate=0",
        ),
    ),
    "expert ranks without experts": Bad(
        overrides="parallel.expert=2 parallel.expert_tensor=2",
        messages=(
            "parallel.expert=2, model.feed_forward.kind=dense: there are no experts to share out; ",
            "use parallel.expert=1, or model.feed_forward.kind=experts",
            "parallel.expert_tensor=2, model.feed_forward.kind=dense: there are no experts to share out; ",
        ),
    ),
    "ten experts on four ranks": Bad(
        overrides=experts(num_experts=10) + " parallel.expert=4",
        messages=(
            "model.feed_forward.num_experts=10, parallel.expert=4: every expert rank must hold the same number of ",
            "experts; use parallel.expert one of 1, 2, 5, 10, or model.feed_forward.num_experts=8 or 12",
        ),
    ),
    "experts that their tensor ranks do not cut": Bad(
        overrides=experts() + " parallel.expert_tensor=3",
        messages=(
            "model.feed_forward.ffn_hidden_size=64, parallel.expert_tensor=3: parallel.expert_tensor must divide it; ",
            "use parallel.expert_tensor one of 1, 2, 4, 8, 16, 32, or model.feed_forward.ffn_hidden_size=63 or 66",
        ),
    ),
    "shared expert that the tensor ranks do not cut": Bad(
        overrides=experts(shared_ffn_hidden_size=33) + " parallel.tensor=2 parallel.sequence=true",
        messages=(
            "model.feed_forward.shared_ffn_hidden_size=33, parallel.tensor=2: parallel.tensor must divide it; ",
            "use parallel.tensor 1, or model.feed_forward.shared_ffn_hidden_size=32 or 34",
        ),
    ),
    "experts on tensor ranks with whole sequences": Bad(
        overrides=experts() + " parallel.tensor=2",
        messages=(
            "parallel.tensor=2, parallel.sequence=false, model.feed_forward.kind=experts: ",
            "with experts the tensor ranks must share out the tokens; use parallel.sequence=true, or parallel.tensor=1",
        ),
    ),
    # Windows, sinks, biases
    "pattern of a window that is not there": Bad(
        overrides="model.global_every=2",
        messages=("model.global_every=2, model.window=none: says which layers have no window, and none has one; set",),
    ),
    "no positions where all layers are alike": Bad(
        overrides="model.window=8 model.global_positions=false",
        messages=(
            "model.global_positions=false, model.window=8, model.global_every=none: speaks of layers without a window ",
        ),
    ),
    "latent attention with biases": Bad(
        overrides=f"{latent()} model.biases=true",
        messages=("model.biases=true, model.attention.kind=latent: latent attention has none; use model.biases=false",),
    ),
    "experts with biases that are cut": Bad(
        overrides=f"{experts()} model.biases=true parallel.data=2 parallel.expert_tensor=2",
        messages=(
            "parallel.expert_tensor=2, model.biases=true: experts with biases cannot be cut; ",
            "use parallel.expert_tensor=1",
        ),
    ),
    "a shared expert with biases": Bad(
        overrides=f"{experts(shared_ffn_hidden_size=64)} model.biases=true",
        messages=(
            "model.biases=true, model.feed_forward.shared_ffn_hidden_size=64: a shared expert has none; use ",
            "model.biases=false",
        ),
    ),
    # Groups of experts
    "groups that do not divide": Bad(
        overrides=experts(num_groups=3),
        messages=(
            "model.feed_forward.num_experts=8, model.feed_forward.num_groups=3: every group must hold the same number ",
            "use model.feed_forward.num_groups one of 1, 2, 4, 8, or model.feed_forward.num_experts=6 or 9",
        ),
    ),
    "more groups for a token than there are": Bad(
        overrides=experts(num_groups=2, groups_per_token=3),
        messages=(
            "model.feed_forward.groups_per_token=3, model.feed_forward.num_groups=2: a token can take each group ",
            "once; use 2 or less",
        ),
    ),
    "experts that do not divide over a token's groups": Bad(
        overrides=experts(experts_per_token=3, num_groups=4, groups_per_token=2),
        messages=(
            "model.feed_forward.experts_per_token=3, model.feed_forward.groups_per_token=2, ",
            "use model.feed_forward.groups_per_token 3, or model.feed_forward.num_groups=1",
        ),
    ),
    "a token's experts that just fill its groups are a way out": Bad(
        overrides=experts(experts_per_token=4, num_groups=4, groups_per_token=3),
        messages=("use model.feed_forward.groups_per_token one of 2, 4, or model.feed_forward.num_groups=1",),
    ),
    "no layer with experts in the pattern": Bad(
        overrides=experts(num_dense_layers=3, every=2),
        messages=(
            "model.feed_forward.num_dense_layers=3, model.feed_forward.every=2, model.num_layers=4: no layer is left ",
            "use 2 or less, or model.feed_forward.kind=dense",
        ),
    ),
    # Multi-token prediction
    "more tokens ahead than a sequence has": Bad(
        overrides="model.multi_token_depths=64",
        messages=(
            "model.multi_token_depths=64, data.sequence_length=64: the last depth would have no token to predict; ",
            "use model.multi_token_depths=63 or less",
        ),
    ),
    "further tokens with a layer and a loss of one's own": Bad(
        overrides=f"model.multi_token_depths=1 model.layer={OWN}:post_normed_layer objective.loss={OWN}:focal_loss",
        messages=(
            f"model.multi_token_depths=1, model.layer={OWN}:post_normed_layer: further tokens are predicted with ",
            "mai's own; use model.multi_token_depths=0, or model.layer=none",
            f"model.multi_token_depths=1, objective.loss={OWN}:focal_loss: ",
        ),
    ),
    "further tokens with a tied embedding on two stages": Bad(
        overrides="model.multi_token_depths=1 model.tied_embeddings=true parallel.pipeline=2",
        messages=(
            "model.multi_token_depths=1, model.tied_embeddings=true, parallel.pipeline=2: ",
            "use parallel.pipeline=1, model.tied_embeddings=false, or model.multi_token_depths=0",
        ),
    ),
}
