"""Memory of small settings, counted by hand; and of real runs, as they printed it."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.ground_truth.rows import read
from benchmarks.plan_memory_accuracy import memory_rows
from mai.hardware.cluster import load_cluster
from mai.model.shapes import Split
from mai.plan.memory.memory import CONTEXT_GIB, RESERVED_OVER_ALLOCATED, memory
from mai.plan.model.architecture import Architecture, Attention, Experts, Layer, Product, gated_network
from mai.plan.setting.setting import Setting
from mai.plan.software import load_software
from mai.recipe import ParallelConfig

HIDDEN, WIDTH, HEADS, SIZE, VOCABULARY, LENGTH = 1024, 4096, 8, 128, 32_000, 2048
ATTENTION = Attention(
    heads=HEADS,
    key_heads=HEADS,
    key_size=SIZE,
    value_size=SIZE,
    products=(
        Product("linear_qkv", HIDDEN, 3 * HIDDEN, Split.ROWS),
        Product("linear_proj", HIDDEN, HIDDEN, Split.COLUMNS),
    ),
)
NETWORK = gated_network(HIDDEN, WIDTH, has_bias=False)
DENSE = Architecture(hidden=HIDDEN, vocabulary=VOCABULARY, layers=(Layer(ATTENTION, NETWORK),) * 4, is_tied=False)
OF_LAYER = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * WIDTH + 2 * HIDDEN
PARAMETERS = 4 * OF_LAYER + 2 * VOCABULARY * HIDDEN + HIDDEN
TOKEN = 2 * (4 * HIDDEN + 4 * HIDDEN + 3 * WIDTH)
"""Bytes that a layer keeps of a token in bf16: norms in and out, queries, keys, values, output, network."""


def setting(architecture: Architecture = DENSE, software: str = "megatron_2025", **parallel: Any) -> Setting:
    return Setting(
        architecture=architecture,
        parallel=ParallelConfig(**{"data": 1, **parallel}),
        sequence_length=LENGTH,
        num_micro_batches=8,
        precision="bf16",
        software=load_software(software),
        cluster=load_cluster("h100"),
        kept_bytes=12,
    )


def items(found: Setting, stage: int = 0) -> dict[str, int]:
    return dict(memory(found).stages[stage].items_bytes)


def test_one_rank_holds_eighteen_bytes_a_parameter() -> None:
    found = items(setting())
    assert found["weights"] == 2 * PARAMETERS
    assert found["gradients"] == 4 * PARAMETERS
    assert found["optimizer"] == 12 * PARAMETERS


def test_data_and_context_ranks_share_out_the_optimizer() -> None:
    found = items(setting(data=4, context=2))
    assert found["optimizer"] == pytest.approx(12 * PARAMETERS / 8, abs=1)
    assert found["gradients"] == 4 * PARAMETERS


def test_hybrid_sharding_keeps_a_copy_for_so_many_ranks() -> None:
    assert items(setting(data=8, sharding_ranks=2))["optimizer"] == 6 * PARAMETERS


def test_full_sharding_shares_out_weights_and_gradients_too_and_gathers_two_units() -> None:
    found = items(setting(software="mai", data=4, sharding="full"))
    assert "weights" not in found
    assert found["gradients"] == PARAMETERS
    assert found["optimizer"] == 3 * PARAMETERS
    # Both ends are larger than a layer; only one of them is gathered beside the next layer.
    end, of_matrices = VOCABULARY * HIDDEN, OF_LAYER - 2 * HIDDEN
    assert found["gathered weights"] == 2 * (end + of_matrices) + 6 * end


def test_every_micro_batch_in_flight_keeps_its_layers() -> None:
    one = LENGTH * (TOKEN + HEADS * 4 + 2 * 4)
    assert items(setting())["activations"] == 4 * one
    first, last = (items(setting(pipeline=2), stage) for stage in (0, 1))
    assert first["activations"] == 2 * 2 * one
    assert last["activations"] == 2 * one


def test_a_recomputed_layer_keeps_its_input_and_is_whole_in_its_backward_pass() -> None:
    found = items(setting(pipeline=2, recompute=("layer",)))
    assert found["activations"] == 2 * 2 * LENGTH * HIDDEN * 2
    again = LENGTH * (TOKEN + HEADS * 4 + 2 * 4) - LENGTH * HIDDEN * 2
    # The gradient of the layer, and of what the network's activation read.
    assert found["a layer's backward pass"] == again + LENGTH * 2 * (HIDDEN + 2 * WIDTH)


def test_the_loss_is_bf16_logits_and_their_fp32_softmax_with_both_sides_of_the_last_norm() -> None:
    assert items(setting())["loss"] == LENGTH * (6 * VOCABULARY + 2 * 2 * HIDDEN)


def test_mai_never_has_more_logits_than_those_of_a_chunk() -> None:
    whole = setting(software="mai", micro_batch_sequences=4)
    hidden = 4 * LENGTH * HIDDEN * 2  # as the last norm gives it
    assert items(whole)["loss"] == 4096 * VOCABULARY * 2 + hidden


def test_transformer_engine_keeps_one_stand_in_for_every_shape_of_matrix() -> None:
    shapes = 3 * HIDDEN * HIDDEN + HIDDEN * HIDDEN + 3 * HIDDEN * WIDTH + VOCABULARY * HIDDEN
    assert items(setting())["buffers"] == 64 * 2**20 + 2 * shapes


def test_a_save_holds_the_largest_piece_of_a_parameter_on_the_host() -> None:
    assert memory(setting(software="mai", data=8)).stages[0].host_during_save_bytes == 4 * PARAMETERS // 8
    assert memory(setting(software="mai")).stages[0].host_during_save_bytes == 4 * VOCABULARY * HIDDEN


def test_old_attention_keeps_its_square_of_scores() -> None:
    old = replace(load_software("megatron_2022").keeps, dropout_masks=False)
    without = replace(setting(), software=replace(load_software("megatron_2022"), keeps=old))
    squares = HEADS * LENGTH * LENGTH
    fused = replace(without, software=replace(without.software, keeps=replace(old, attention_scores=False)))
    assert items(without)["activations"] - items(fused)["activations"] == 4 * squares * 4


def with_experts(imbalance: float = 1.0) -> Setting:
    experts = Experts(16, 2, gated_network(HIDDEN, 512, has_bias=False), Product("router", HIDDEN, 16, Split.NONE))
    model = replace(DENSE, layers=(Layer(ATTENTION, experts),) * 4)
    return replace(setting(model, data=8, expert=8), imbalance=imbalance)


def test_experts_share_their_optimizer_with_their_copies_alone() -> None:
    of_experts = 4 * 2 * 3 * HIDDEN * 512
    of_rest = 4 * (4 * HIDDEN * HIDDEN + 16 * HIDDEN + 2 * HIDDEN) + 2 * VOCABULARY * HIDDEN + HIDDEN
    found = items(with_experts())
    assert found["weights"] == 2 * (of_experts + of_rest)
    assert found["optimizer"] == pytest.approx(12 * (of_experts + of_rest / 8), abs=1)


def test_the_busiest_rank_keeps_more_rows_in_proportion() -> None:
    even, half_more, twice = (items(with_experts(factor))["activations"] for factor in (1.0, 1.5, 2.0))
    assert half_more - even == pytest.approx((twice - even) / 2, rel=1e-6)
    rows = 4 * LENGTH * 2
    assert twice - even == pytest.approx(rows * (2 * (HIDDEN + 3 * 512) + 4), rel=0.01)


def test_the_largest_rank_is_named_and_what_it_misses() -> None:
    found = memory(setting(software="mai", pipeline=4, micro_batch_sequences=256))
    assert found.largest.stage == 0
    assert not found.fits
    assert found.usable_bytes is not None
    assert found.missing_bytes == found.largest.needed_bytes - found.usable_bytes
    assert found.largest.needed_bytes == pytest.approx(
        found.largest.allocated_bytes * RESERVED_OVER_ALLOCATED + CONTEXT_GIB * 2**30, abs=1
    )


def test_one_rank_with_all_experts_is_never_busier_than_the_mean() -> None:
    model = with_experts().architecture
    even, busy = (replace(setting(model, data=8), imbalance=factor) for factor in (1.0, 2.0))
    assert items(even) == items(busy)
    # Nor is one of two ever more than twice as busy.
    twice, more = (replace(setting(model, data=8, expert=2), imbalance=factor) for factor in (2.0, 3.0))
    assert items(twice) == items(more)


def test_what_is_more_than_the_gpu_has_does_not_fit_even_where_its_usable_memory_is_unknown() -> None:
    small, large = (
        memory(replace(setting(software="mai", micro_batch_sequences=sequences), cluster=load_cluster("maia100")))
        for sequences in (1, 256)
    )
    assert small.usable_bytes is None
    assert small.fits
    assert large.missing_bytes == large.largest.needed_bytes - 64 * 2**30 > 0


def test_real_runs_of_megatron_core_need_what_the_planner_says() -> None:
    """SimuMax's 22 runs on 8 B200s, all ranks: dense and with experts, pipeline, tensor, context and expert ranks."""
    rows = list(memory_rows(only="SimuMax"))
    assert len(rows) == 8 * sum(row["source"].startswith("SimuMax") for row in read())
    for row in rows:
        assert row.predicted_gib == pytest.approx(row.measured_gib, rel=0.002), row
