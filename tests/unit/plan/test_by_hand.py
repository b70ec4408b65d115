"""Items of a plan that no measurement pins down, worked out by hand from what `mai plan --json` says, on links of round
numbers: without this each could be free, or twice as dear, and nobody would notice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import mai.hardware
from mai.cli_plan import plan as command

SHIPPED = Path(mai.hardware.__file__).parent / "clusters/h100.toml"
LINK_SHARE = 0.82
"""Of a link's rate that a collective reaches."""
NO_TIME = 1e-6
"""Microseconds of a hop."""
LAYERS, HIDDEN, LENGTH = 8, 4096, 1024
LAYER = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * 1024 + 3 * HIDDEN * 14336 + 2 * HIDDEN
"""Parameters of a layer of Llama 3 8B."""
DENSE = (
    "llama3_8b", f"model.num_layers={LAYERS}", f"data.sequence_length={LENGTH}",
    "parallel.sharding=optimizer", "parallel.micro_batch_sequences=1",
)  # fmt: skip
"""With little to compute, so that what ranks exchange can be more than that hides."""

Plan = Callable[..., dict[str, Any]]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The JSON of `mai plan` on nodes of 8 H100s, whose links have so many GB/s and microseconds inside and out."""

    def run(
        *words: str, up: tuple[float, float] = (500, NO_TIME), out: tuple[float, float] = (50, NO_TIME)
    ) -> dict[str, Any]:
        cluster, values = tmp_path / "ours.toml", iter((*up, *out))
        lines = []
        for line in SHIPPED.read_text().splitlines():
            name = line.partition(" ")[0]
            is_of_link = name in ("gb_per_second", "latency_microseconds")
            lines.append(f'{name} = {{ value = {next(values)}, source = "this test" }}' if is_of_link else line)
        cluster.write_text("\n".join(lines))
        told = CliRunner().invoke(command, [*words, "--hardware", str(cluster), "--gpus", "4096", "--json"])
        assert told.exit_code in (0, 80), told.output
        return json.loads(told.stdout)  # type: ignore[no-any-return]

    return run


def item(found: dict[str, Any], name: str) -> float:
    return float(found["step"]["items_seconds"][name])


def batch(sequences: int) -> str:
    return f"train.batch_tokens={sequences * LENGTH}"


def held(found: dict[str, Any]) -> int:
    """Parameters on a rank, of bf16 weights."""
    return int(found["memory"]["stages"][0]["items_bytes"]["weights"]) // 2


def test_copies_that_hybrid_sharding_keeps_equal_sum_their_shards_once_more(plan: Plan) -> None:
    whole = plan(*DENSE, "parallel.data=8", batch(8))
    hybrid = plan(*DENSE, "parallel.data=64", "parallel.sharding_ranks=8", batch(64))
    # An all-reduce of a rank's eighth of the fp32 sums, over eight copies that lie a node apart.
    shard_bytes = 4 * held(hybrid) / 8
    more = 2 * 7 / 8 * shard_bytes / (50e9 * LINK_SHARE)
    assert item(hybrid, "gradients") - item(whole, "gradients") == pytest.approx(more, rel=1e-4)
    assert item(hybrid, "parameters") == pytest.approx(item(whole, "parameters"), rel=1e-4)


def test_copies_under_full_sharding_sum_their_shards_once_more_layer_by_layer(plan: Plan) -> None:
    full, slow = tuple(word.replace("sharding=optimizer", "sharding=full") for word in DENSE), (50, NO_TIME)
    whole = plan(*full, "parallel.data=8", batch(8), up=slow)
    hybrid = plan(*full, "parallel.data=64", "parallel.sharding_ranks=8", batch(64), up=slow)
    more = LAYERS * 2 * 7 / 8 * (2 * LAYER / 8) / (50e9 * LINK_SHARE)
    assert item(hybrid, "shards") - item(whole, "shards") == pytest.approx(more, rel=1e-4)


def test_of_gradients_and_weights_that_are_hidden_the_last_bucket_shows(plan: Plan) -> None:
    found = plan(*DENSE, "parallel.data=8", batch(8), up=(5000, NO_TIME))
    numbers = 7 / 8 * held(found)
    assert item(found, "gradients") == pytest.approx(0.05 * 4 * numbers / (5000e9 * LINK_SHARE), rel=1e-4)
    assert item(found, "parameters") == pytest.approx(0.05 * 2 * numbers / (5000e9 * LINK_SHARE), rel=1e-4)


def test_of_gradients_and_weights_that_are_not_hidden_a_pass_hides_nine_tenths_of_itself(plan: Plan) -> None:
    found = plan(*DENSE, "parallel.data=8", batch(8), up=(50, NO_TIME))
    numbers, (passes,) = 7 / 8 * held(found), found["step"]["stages"]
    reduce, gather = (size * numbers / (50e9 * LINK_SHARE) for size in (4, 2))
    assert item(found, "gradients") == pytest.approx(reduce - 0.9 * passes["backward_seconds"], rel=1e-4)
    assert item(found, "parameters") == pytest.approx(gather - 0.9 * passes["forward_seconds"], rel=1e-4)


def test_every_bucket_of_gradients_waits_for_its_hops(plan: Plan) -> None:
    at_once, late = (plan(*DENSE, "parallel.data=8", batch(8), up=(50, latency)) for latency in (NO_TIME, 100))
    # Of 40 million numbers each; eight ranks are seven hops apart.
    more = held(late) / 40e6 * 7 * 100e-6
    for name in ("gradients", "parameters"):
        assert item(late, name) - item(at_once, name) == pytest.approx(more, rel=1e-4)


def test_the_optimizer_reads_and_writes_thirty_bytes_of_each_parameter_it_has(plan: Plan) -> None:
    found = plan(*DENSE, "parallel.data=8", batch(8))
    assert item(found, "optimizer") == pytest.approx(held(found) / 8 * 30 / (3.35e12 * 0.9))
    assert item(found, "step") == 0.01


@pytest.mark.parametrize(("virtual_stages", "shown"), [(1, 1.0), (2, 0.2)])
def test_stages_send_every_micro_batch_there_and_back(virtual_stages: int, shown: float, plan: Plan) -> None:
    found = plan(
        *DENSE, "parallel.data=8", "parallel.pipeline=4", f"parallel.virtual_stages={virtual_stages}", batch(128),
        out=(50, 30),
    )  # fmt: skip
    send = LENGTH * HIDDEN * 2 / (50e9 * LINK_SHARE) + 30e-6
    assert found["micro_batches"] == 16
    # Each part receives and sends, forward and backward; with several, computing hides most of it.
    assert item(found, "pipeline") == pytest.approx(4 * virtual_stages * 16 * send * shown)
    passes = [stage["forward_seconds"] + stage["backward_seconds"] for stage in found["step"]["stages"]]
    others = sum(passes) - max(passes)
    # The first micro-batch comes through three more stages and goes back through them.
    assert item(found, "bubble") == pytest.approx(others / virtual_stages + 2 * 3 * send)


def test_stages_of_one_node_send_inside_it(plan: Plan) -> None:
    found = plan(*DENSE, "parallel.data=1", "parallel.pipeline=4", batch(16), up=(500, 30))
    assert item(found, "pipeline") == pytest.approx(64 * (LENGTH * HIDDEN * 2 / (500e9 * LINK_SHARE) + 30e-6))


@pytest.mark.parametrize(("expert", "link"), [(8, "up"), (64, "out")])
def test_tokens_to_experts_and_back_wait_for_two_hops_each_time(expert: int, link: str, plan: Plan) -> None:
    words = (
        "qwen3_235b_a22b", "model.num_layers=2", "parallel.tensor=1", "parallel.sequence=false", "parallel.pipeline=1",
        "parallel.virtual_stages=1", "parallel.stages=even", "parallel.data=64", f"parallel.expert={expert}",
    )  # fmt: skip
    at_once, late = (plan(*words, **{link: (50, latency)}) for latency in (NO_TIME, 50))
    exchanges = 2 * 4 * late["micro_batches"]  # of two layers: to the experts and back, forward and backward
    assert item(late, "expert") - item(at_once, "expert") == pytest.approx(exchanges * 2 * 50e-6, rel=1e-4)


def test_memory_outside_the_allocator_is_what_it_holds_back_and_a_gibibyte_and_a_half(plan: Plan) -> None:
    for rank in plan(*DENSE, "parallel.data=8", "parallel.pipeline=2", batch(64))["memory"]["stages"]:
        allocated = sum(rank["items_bytes"].values())
        assert rank["allocated_bytes"] == allocated
        assert rank["outside_bytes"] == pytest.approx(0.093 * allocated + 1.5 * 2**30, abs=1)
        assert rank["needed_bytes"] == rank["allocated_bytes"] + rank["outside_bytes"]
