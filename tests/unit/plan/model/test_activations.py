"""Bytes that a layer keeps, added up by hand; tests/parity/test_plan_equals_engine.py counts them in the engine."""

from dataclasses import replace

import pytest

from mai.parallel.stages import all_virtual_stages
from mai.plan.model.activations import Cut, kept_bytes
from mai.plan.model.architecture import of_model
from mai.plan.model.virtual_stage_activations import kept_bytes_of_virtual_stage
from mai.recipe import ParallelConfig, load

LLAMA, MIXTRAL = (of_model(load.find(name)().model) for name in ("llama3_8b", "mixtral_8x7b"))
CUT = Cut(sequences=1, length=8192, element_bytes=2)


def test_a_layer_keeps_what_its_operations_read_backward() -> None:
    norms, attention, network = 4 * 4096, 2 * 4096 + 2 * 1024, 3 * 14336
    # In fp32, a number a token of both norms, and one of every head.
    of_token = 2 * (norms + attention + network) + 4 * (2 + 32)
    assert kept_bytes(LLAMA, LLAMA.layers[0], CUT) == 8192 * of_token


@pytest.mark.parametrize(("module", "kept_again"), [("norms", 2 * 2 * 4096 + 2 * 4), ("feed_forward", 2 * 3 * 14336)])
def test_a_recomputed_module_keeps_nothing_of_its_own(module: str, kept_again: int) -> None:
    layer = LLAMA.layers[0]
    assert kept_bytes(LLAMA, layer, CUT) - kept_bytes(LLAMA, layer, CUT, (module,)) == 8192 * kept_again  # type: ignore[arg-type]


def test_a_recomputed_stage_keeps_a_hidden_state_a_layer_and_one_to_send() -> None:
    first, _ = all_virtual_stages(32, ParallelConfig(pipeline=2))
    assert kept_bytes_of_virtual_stage(LLAMA, first, CUT, ("layer",)) == (16 + 1) * 8192 * 4096 * 2


def test_experts_keep_the_routers_copies_its_choice_and_what_their_rows_read() -> None:
    layer = MIXTRAL.layers[0]
    # In fp32 the input, two picked logits, eight scores and their sum; which experts, as int64.
    of_router = 4 * (4096 + 2 + 8 + 1) + 8 * 2
    of_rows = 2 * (2 * (4096 + 3 * 14336) + 4)
    # Computed again they begin from their input in bf16, which nothing else keeps.
    saved = kept_bytes(MIXTRAL, layer, CUT) - kept_bytes(MIXTRAL, layer, CUT, ("experts",))
    assert saved == 8192 * (of_router + of_rows - 2 * 4096) + 4 * 8 * 4096


def test_the_expert_rank_with_twice_the_rows_keeps_twice_as_many() -> None:
    layer = MIXTRAL.layers[0]
    even, busy = (kept_bytes(MIXTRAL, layer, replace(CUT, imbalance=imbalance)) for imbalance in (1.0, 2.0))
    of_row = 2 * (4096 + 3 * 14336) + 4
    assert busy - even == 2 * 8192 * of_row


def test_a_further_depth_keeps_its_layer_what_its_matrix_reads_and_what_its_last_norm_reads() -> None:
    depth = of_model(replace(load.find("llama3_8b")().model, multi_token_depths=1))
    (whole,) = all_virtual_stages(32, ParallelConfig())
    without, with_one = (kept_bytes_of_virtual_stage(one, whole, CUT) for one in (LLAMA, depth))
    # Of the loss: the gradient of what the output layer reads, its input, two numbers of the loss in fp32.
    of_loss = 2 * 4096 * 2 + 2 * 4
    # The tokens and which are there; the embedding, both halves of what the matrix reads, the last norm's input.
    of_depth = 2 * 8 + 4 * 4096 * 2 + 3 * 4
    assert with_one - without == kept_bytes(depth, depth.layers[-1], CUT) + 8192 * (of_loss + of_depth)
