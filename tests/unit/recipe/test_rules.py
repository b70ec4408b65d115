from dataclasses import replace

import pytest

from mai.errors import RecipeError
from mai.recipe import ParallelConfig, override, rules
from mai.recipe.knobs import KNOBS
from tests.unit.recipe.samples import experts, latent, small

EVERY_AXIS = (
    "parallel.tensor=2 parallel.sequence=true parallel.context=2 parallel.pipeline=2 parallel.virtual_stages=2 "
    "parallel.data=2 parallel.expert=4 parallel.expert_tensor=2 parallel.sharding_ranks=4 parallel.recompute=layer"
)


def test_a_good_recipe_breaks_no_rule() -> None:
    assert rules.violations(small()) == []
    rules.check(small(), world_size=8)


@pytest.mark.parametrize(
    ("words", "ranks"),
    [
        ("parallel.tensor=2 parallel.pipeline=2 parallel.data=2", 8),
        ("parallel.tensor=2 parallel.pipeline=2 parallel.sequence=true", 8),
        ("parallel.pipeline=4", 4),
        ("parallel.data=8", 8),
        ("checkpoint.every_steps=1000 evaluate.every_steps=1000", 1),
        ("optimizer.schedule.warmup_steps=19", 1),
        ("optimizer.schedule.kind=warmup_stable_decay optimizer.schedule.warmup_steps=16", 1),
        ("model.head_size=2 model.num_heads=2 model.num_kv_heads=1", 1),
        ("data.tokenizer=tokenizer.json model.vocab_size=16", 1),
        ("parallel.tensor=2 parallel.context=2 parallel.sequence=true", 8),
        ("parallel.context=4 data.sequence_length=72 train.batch_tokens=576", 4),
        ("parallel.pipeline=2 parallel.virtual_stages=2", 4),
        ("parallel.pipeline=4 parallel.stages=balanced model.num_layers=3", 4),
        ("parallel.pipeline=4 parallel.stages=balanced model.num_layers=30", 4),
        ("parallel.pipeline=2 parallel.stages=Ettt|tL", 2),
        ("parallel.pipeline=3 parallel.stages=E(tt|)*2,L", 3),
        ("parallel.data=8 parallel.sharding_ranks=2", 8),
        ("parallel.recompute=attention_core,norms", 1),
        ("parallel.recompute=layer", 1),
        (f"{experts()} parallel.expert=4", 4),
        (f"{experts()} parallel.expert=4 parallel.expert_tensor=2 parallel.tensor=2 parallel.sequence=true", 8),
        # No layer is dense, so nothing is as wide as model.ffn_hidden_size.
        (f"{experts()} model.ffn_hidden_size=127 parallel.tensor=2 parallel.sequence=true", 2),
        (f"{experts(experts_per_token=1, normalised='false', scores='sigmoid', bias_update_rate=1e-3)}", 1),
        (f"{experts(shared_ffn_hidden_size=32, num_dense_layers=1)} parallel.recompute=shared_experts,feed_forward", 1),
        (f"{experts()} parallel.expert=4 parallel.data=8 parallel.sharding_ranks=4", 8),
        (f"{latent(query_rank=15)} model.head_size=15 parallel.tensor=2", 2),
        (f"{latent()} {experts()} {EVERY_AXIS}", 16),
        (f"{latent()} {experts()} model.multi_token_depths=2 {EVERY_AXIS}", 16),
        ("model.multi_token_depths=63 model.tied_embeddings=true parallel.tensor=2", 2),
    ],
)
def test_what_the_rules_allow(words: str, ranks: int) -> None:
    override.apply(small(), words.split(), world_size=ranks)


def test_check_raises_every_breach_together() -> None:
    bad = replace(small(), parallel=ParallelConfig(tensor=3, pipeline=3))
    with pytest.raises(RecipeError) as caught:
        rules.check(bad)
    assert list(caught.value.violations) == rules.violations(bad)
    assert len(caught.value.violations) == 5


def test_suggested_values_are_legal() -> None:
    """One of the ways out that a message names is taken, and it works."""
    for words, way_out in [
        (["parallel.data=3", "evaluate.sequences=63"], "train.batch_tokens=384"),
        (["parallel.data=3", "train.batch_tokens=576"], "evaluate.sequences=66"),
        (["parallel.pipeline=4", "parallel.data=4"], "train.batch_tokens=1024"),
        (["parallel.pipeline=3"], "model.num_layers=6"),
        (["parallel.pipeline=3"], "parallel.stages=balanced"),
        (["parallel.pipeline=3"], "parallel.stages=Et|tt|tL"),
        (["parallel.pipeline=2", "parallel.virtual_stages=4"], "model.num_layers=8"),
        (["parallel.pipeline=2", "parallel.virtual_stages=4"], "parallel.virtual_stages=2"),
        (["parallel.pipeline=2", "parallel.virtual_stages=2", "train.batch_tokens=192"], "train.batch_tokens=256"),
        (["parallel.pipeline=2", "parallel.virtual_stages=2", "evaluate.sequences=63"], "evaluate.sequences=62"),
        (["parallel.context=4", "data.sequence_length=4", "train.batch_tokens=448"], "data.sequence_length=8"),
        ([*experts(num_experts=10).split(), "parallel.expert=4"], "parallel.expert=5"),
        ([*experts(num_experts=8).split(), "parallel.expert=3"], "model.feed_forward.num_experts=9"),
        ([*experts().split(), "parallel.expert=8", "parallel.data=4"], "parallel.data=8"),
        ([*experts().split(), "parallel.expert=8", "parallel.data=4"], "parallel.expert=4"),
        ([*experts().split(), "parallel.tensor=2"], "parallel.sequence=true"),
        (["parallel.data=8", "parallel.sharding_ranks=3"], "parallel.sharding_ranks=4"),
        (["optimizer.schedule.warmup_steps=20"], "train.steps=21"),
    ]:
        with pytest.raises(RecipeError):
            override.apply(small(), words)
        path = way_out.partition("=")[0]
        override.apply(small(), [*(word for word in words if not word.startswith(f"{path}=")), way_out])


def test_breaches_name_paths_that_exist() -> None:
    dense = override.apply(small(), ["parallel.data=2", "data.tokenizer=t.json"])
    mixture = override.apply(dense, [*experts(num_dense_layers=1).split(), *latent().split()])
    known = {path for path, _ in KNOBS}
    for recipe in (dense, mixture):
        parallel = ParallelConfig(
            **dict.fromkeys(("tensor", "context", "pipeline", "virtual_stages", "expert", "expert_tensor"), 3),
            data=4,
            sequence=True,
            sharding_ranks=5,
            recompute=("layer", "experts", "shared_experts"),
        )
        model = replace(recipe.model, layer="nowhere.py:layer", num_kv_heads=3)
        found = rules.breaches(replace(recipe, model=model, parallel=parallel), world_size=5)
        assert len(found) >= 14
        assert {path for breach in found for path in breach.paths} <= known


def test_huge_numbers_are_judged_at_once() -> None:
    huge = f"{2**62 - 1}"
    with pytest.raises(RecipeError, match=r"parallel\.pipeline"):
        override.apply(small(), [f"model.num_layers={huge}", "parallel.pipeline=2"])
    with pytest.raises(RecipeError, match=r"parallel\.tensor"):
        override.apply(small(), [f"parallel.tensor={huge}"], world_size=int(huge))
    for stages in ("even", "balanced", "E(t|)*3,L"):
        words = [f"parallel.pipeline={huge}", f"parallel.virtual_stages={huge}", f"parallel.stages={stages}"]
        with pytest.raises(RecipeError, match=r"parallel\.pipeline"):
            override.apply(small(), words)
