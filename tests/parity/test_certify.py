"""`mai certify` finds planted bugs, names them, and lets sound layouts pass."""

from pathlib import Path

import pytest

from mai.certify.trial import PACKED, PLAIN, WEIGHTED
from tests.house.sources import ROOT
from tests.parity import planted_bugs as bugs
from tests.parity.certified import DOCUMENT, RECIPES
from tests.parity.planted_bugs import BAD_RANK, Plant, certify

TENSOR = ("parallel.tensor=2", "parallel.sequence=true", "parallel.data=1")
PIPELINE = ("parallel.pipeline=2", "parallel.data=1")
CONTEXT = ("parallel.context=2", "parallel.data=1")
DATA = ("parallel.data=2",)
EXPERTS = (
    "model.feed_forward.kind=experts",
    "model.feed_forward.num_experts=8",
    "model.feed_forward.experts_per_token=2",
    "model.feed_forward.ffn_hidden_size=32",
    "parallel.expert=2",
    "parallel.data=2",
)
LATENT = (
    "model.num_kv_heads=4",
    "model.attention.kind=latent",
    "model.attention.key_value_rank=32",
    "model.attention.query_rank=48",
    "model.attention.rotary_head_size=8",
    "model.attention.value_head_size=16",
)
FURTHER_TOKENS = ("model.multi_token_depths=1", *PIPELINE)
EVERY_AXIS = {
    "dense_every_axis": ("precision.compute=bf16",),
    "experts_every_axis": ("parallel.sharding=full", "parallel.recompute=layer"),
    "latent_every_axis": ("precision.compute=bf16",),
}


def test_a_sound_layout_passes_and_says_what_was_compared_and_what_is_unproven(tmp_path: Path) -> None:
    outcome = certify(bugs.none, "parallel.tensor=2", "parallel.sequence=true", "parallel.data=2", folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert outcome.certificate is not None
    assert outcome.certificate["passed"] is True
    assert outcome.certificate["wrong"] is None
    kinds = outcome.certificate["compared"]["fp32"]
    assert all(kind["numbers"] > 0 and kind["worst"]["used"] < 1 for kind in kinds.values())
    assert any("NCCL" in sentence for sentence in outcome.certificate["unproven"])
    assert outcome.certificate["batches"] == [PLAIN, PLAIN, PACKED, PACKED]
    assert f"steps 3 to 4: {PACKED}" in outcome.stdout
    assert "certificate:" in outcome.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", EVERY_AXIS)
def test_a_sound_layout_of_every_axis_passes(recipe: str, tmp_path: Path) -> None:
    words = EVERY_AXIS[recipe]
    outcome = certify(bugs.none, *words, folder=tmp_path, recipe=recipe)
    assert outcome.code == 0, outcome.stderr
    assert outcome.certificate is not None
    assert ("bf16" in outcome.certificate["compared"]) == ("precision.compute=bf16" in words)
    # The layout has few enough ranks to be tried as it is.
    assert all(degree["original"] == degree["shrunk"] for degree in outcome.certificate["degrees"].values())


def test_a_skipped_all_reduce_is_found_in_the_norms_that_it_leaves_apart(tmp_path: Path) -> None:
    outcome = certify(bugs.skipped_all_reduce, *TENSOR, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    gradients = [finding for finding in outcome.wrong if finding["kind"] == "gradient"]
    assert all("layernorm" in finding["name"] for finding in gradients)
    first = outcome.first_parameter
    assert first["name"] == "decoder.layers.0.input_layernorm.weight"
    assert (first["step"], first["kind"], first["wrong_ranks"]) == (1, "gradient", [0, 1])


def test_a_gradient_scaled_on_one_rank_is_found(tmp_path: Path) -> None:
    outcome = certify(bugs.scaled_gradient, *DATA, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    first = outcome.first_parameter
    assert (first["step"], first["kind"]) == (1, "gradient")
    assert first["name"] == "embedding.word_embeddings.weight"
    # Each of the two ranks gave half of the sum, so that it is about half a percent too large.
    norm = next(finding for finding in outcome.wrong if finding["kind"] == "gradient norm")
    assert norm["difference"] == pytest.approx(0.005 * norm["one_rank"], rel=0.2)


def test_a_transposed_shard_is_found_before_the_first_step_on_the_rank_that_holds_it(tmp_path: Path) -> None:
    outcome = certify(bugs.transposed_shard, *TENSOR, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    (only,) = outcome.wrong
    assert (only["step"], only["kind"]) == (0, "weight")
    assert only["name"] == "decoder.layers.1.mlp.linear_fc2.weight"
    assert only["wrong_ranks"] == [BAD_RANK]


def test_a_stale_pipeline_input_is_found_in_the_first_loss(tmp_path: Path) -> None:
    outcome = certify(bugs.stale_pipeline_input, *PIPELINE, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    assert (outcome.wrong[0]["step"], outcome.wrong[0]["kind"]) == (1, "loss")
    assert outcome.first_parameter["name"] == "embedding.word_embeddings.weight"
    assert "first parameter on the way forward" in outcome.stderr


def test_the_lost_gradient_of_a_rotary_key_is_found(tmp_path: Path) -> None:
    outcome = certify(bugs.lost_gradient_of_the_rotary_key, *LATENT, *TENSOR[::2], folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    gradients = [finding for finding in outcome.wrong if finding["kind"] == "gradient"]
    assert max(gradients, key=lambda finding: finding["used"])["name"].endswith("linear_kv_down_proj.weight")


def test_shifted_positions_of_a_context_rank_are_found_in_the_gradients_and_nowhere_else(tmp_path: Path) -> None:
    outcome = certify(bugs.shifted_positions, *CONTEXT, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    assert {finding["kind"] for finding in outcome.wrong} == {"gradient", "weight"}
    gradients = [finding for finding in outcome.wrong if finding["kind"] == "gradient"]
    assert max(gradients, key=lambda finding: finding["used"])["name"].endswith("linear_qkv.weight")


def test_multi_token_prediction_passes(tmp_path: Path) -> None:
    outcome = certify(bugs.none, *FURTHER_TOKENS, folder=tmp_path)
    assert outcome.code == 0, outcome.stderr


def test_an_embedding_whose_two_gradients_are_not_summed_is_found(tmp_path: Path) -> None:
    outcome = certify(bugs.unshared_embedding, *FURTHER_TOKENS, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    gradients = [finding for finding in outcome.wrong if finding["kind"] == "gradient"]
    assert [finding["name"] for finding in gradients] == ["embedding.word_embeddings.weight"]
    assert gradients[0]["wrong_ranks"] == [0, 1]


def test_an_expert_on_the_wrong_rank_is_found_and_experts_are_named_as_furthest_off(tmp_path: Path) -> None:
    """Fresh experts say next to nothing, so that the loss need not show it; their gradients do."""
    outcome = certify(bugs.wrong_expert_rank, *EXPERTS, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    assert outcome.first_parameter["step"] == 1
    furthest = max((finding for finding in outcome.wrong if finding["name"]), key=lambda finding: finding["used"])
    assert "experts" in furthest["name"]
    assert "once more with other tokens" in outcome.stdout, "experts get a second chance"


def test_experts_pass_when_only_the_first_tokens_differ(tmp_path: Path) -> None:
    outcome = certify(bugs.other_first_tokens, *EXPERTS, folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert outcome.certificate is not None
    assert outcome.certificate["draw"] == 1
    assert outcome.certificate["wrong_in_first_draw"][0]["kind"] == "loss"
    assert "with other tokens" in outcome.stdout


def test_wrong_initial_weights_get_no_second_chance(tmp_path: Path) -> None:
    outcome = certify(bugs.upside_down_in_the_first_draw, *EXPERTS, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    assert {finding["step"] for finding in outcome.wrong} == {0}


def test_a_dense_model_gets_no_second_chance(tmp_path: Path) -> None:
    assert certify(bugs.other_first_tokens, *DATA, folder=tmp_path).code == 88


def test_a_rank_that_reads_another_ranks_data_is_found(tmp_path: Path) -> None:
    outcome = certify(bugs.another_ranks_data, *DATA, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    assert (outcome.wrong[0]["step"], outcome.wrong[0]["kind"]) == (1, "loss")


def test_stages_that_take_micro_batches_in_different_orders_are_found(tmp_path: Path) -> None:
    outcome = certify(bugs.micro_batches_in_another_order, *PIPELINE, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    assert (outcome.wrong[0]["step"], outcome.wrong[0]["kind"]) == (1, "loss")


def test_a_rank_that_updates_faster_is_found_and_its_peers_replica_said_to_be_right(tmp_path: Path) -> None:
    outcome = certify(bugs.another_learning_rate, *TENSOR, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    assert {(finding["step"], finding["kind"]) for finding in outcome.wrong} == {(1, "weight")}
    norm = next(finding for finding in outcome.wrong if "layernorm" in finding["name"])
    assert (norm["wrong_ranks"], norm["right_ranks"]) == ([BAD_RANK], [1 - BAD_RANK])
    embedding = outcome.first_parameter
    assert (embedding["wrong_ranks"], embedding["right_ranks"]) == ([BAD_RANK], [])


@pytest.mark.parametrize(
    ("plant", "words", "kind"),
    [
        (bugs.all_tokens_counted_on_one_context_rank, CONTEXT, "loss"),
        (bugs.mean_of_means, DATA, "loss"),
        (bugs.border_ignored_on_one_context_rank, CONTEXT, "loss"),
        (bugs.weights_that_stay, FURTHER_TOKENS, "gradient"),
    ],
)
def test_what_goes_wrong_with_weights_and_segments_alone_is_found_in_the_steps_that_have_them(
    plant: Plant, words: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    outcome = certify(plant, *words, folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    assert (outcome.wrong[0]["step"], outcome.wrong[0]["kind"]) == (3, kind)


def test_a_core_that_takes_no_segments_passes_and_the_certificate_says_what_was_left_out(tmp_path: Path) -> None:
    file = tmp_path / "core.py"
    file.write_text(
        "from mai.kernels import attention\n\n\n"
        "def core(query, key, value):\n"
        "    return attention.reference(query, key, value)\n"
    )
    outcome = certify(bugs.none, *CONTEXT, f"model.attention_core={file}:core", folder=tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert outcome.certificate is not None
    assert outcome.certificate["batches"] == [PLAIN, PLAIN, WEIGHTED, WEIGHTED]
    assert "segments and positions: a part of your own" in outcome.stdout


def test_a_bf16_layout_that_rounds_worse_than_bf16_is_found(tmp_path: Path) -> None:
    outcome = certify(bugs.bf16_on_one_rank_only, *TENSOR, "precision.compute=bf16", folder=tmp_path)
    assert outcome.code == 88, outcome.stderr
    assert outcome.certificate is not None
    assert outcome.certificate["wrong"]["format"] == "bf16"
    assert (outcome.wrong[0]["step"], outcome.wrong[0]["kind"]) == (1, "gradient")


OWN_PARTS = ROOT / "docs/guides/your_own_part/parts.py"
ALL_CUT = (*TENSOR[:2], "parallel.context=2", "parallel.data=2")


def test_the_guides_own_parts_pass_in_every_cut(tmp_path: Path) -> None:
    outcome = certify(bugs.none, *ALL_CUT, folder=tmp_path, recipe=f"{OWN_PARTS}:own_parts")
    assert outcome.code == 0, outcome.stderr


def test_the_guides_norm_without_its_mark_is_found(tmp_path: Path) -> None:
    """What the guide says: training goes on, with a gradient that lacks the other tensor ranks' part."""
    file = tmp_path / "parts.py"
    made = "self.post_norm = RMSNorm(config, config.hidden_size)"
    assert made in OWN_PARTS.read_text()
    unmarked = f"{made}; self.post_norm.weight.sequence_parallel = False"
    file.write_text(OWN_PARTS.read_text().replace(made, unmarked))
    outcome = certify(bugs.none, *TENSOR, folder=tmp_path, recipe=f"{file}:own_parts")
    assert outcome.code == 88, outcome.stderr
    gradients = [finding["name"] for finding in outcome.wrong if finding["kind"] == "gradient"]
    assert gradients
    assert all(name.endswith("post_norm.weight") for name in gradients)


# Those that have parts of their own; the rest waits for make test-full.
EVERY_COMMIT = ("deepseek_v3", "gpt_oss_120b", "mai_base_1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [name if name in EVERY_COMMIT else pytest.param(name, marks=pytest.mark.full) for name in RECIPES]
)
def test_the_layout_of_a_published_model_passes(recipe: str, tmp_path: Path) -> None:
    outcome = certify(bugs.none, folder=tmp_path, recipe=recipe)
    assert outcome.code == 0, outcome.stderr


@pytest.mark.parametrize(("plant", "code"), [(bugs.bad_data, 81), (bugs.killed_rank, 213)])
def test_a_rank_that_fails_keeps_its_own_code_and_leaves_no_certificate(
    plant: Plant, code: int, tmp_path: Path
) -> None:
    assert certify(bugs.none, *DATA, folder=tmp_path).certificate is not None
    outcome = certify(plant, *DATA, folder=tmp_path)
    assert outcome.code == code, outcome.stderr
    assert outcome.certificate is None, "the one from before is of no worth any more"


@pytest.mark.slow
def test_a_rank_that_hangs_is_lost_and_not_wrong(tmp_path: Path) -> None:
    outcome = certify(bugs.silent_rank, *DATA, folder=tmp_path)
    assert outcome.code == 213, outcome.stderr
    assert f"Timed out waiting {1000 * bugs.PATIENCE_SECONDS:.0f}ms" in outcome.stderr
    assert outcome.certificate is None


def test_the_document_of_certificates_has_a_line_for_every_published_model() -> None:
    """docs/certified.md is what `make certified` wrote of certificates that passed."""
    written = DOCUMENT.read_text()
    assert f"**{len(RECIPES)} of {len(RECIPES)} pass.**" in written
    assert [line.split("`")[1] for line in written.splitlines() if line.startswith("| `")] == list(RECIPES)
