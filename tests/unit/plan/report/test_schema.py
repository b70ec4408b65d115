"""What `mai plan --json` prints keeps to the published schema, and the schema describes all of it."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mai.command import echo_error
from mai.errors import ExitCode
from mai.hardware.cluster import Cluster, Storage, load_cluster
from mai.parallel.layout import Layout
from mai.plan.communication.of_step import programs
from mai.plan.communication.rank_families import families
from mai.plan.goodput.failures import load_failures
from mai.plan.goodput.goodput import goodput_of
from mai.plan.goodput.measured import Measured
from mai.plan.goodput.own_failures import own_failures
from mai.plan.placement.map_and_traffic import map_and_traffic
from mai.plan.proof.of_schedule import placed, prove_schedule
from mai.plan.proof.proof import prove
from mai.plan.published import published
from mai.plan.report.plan_report import of_whole_run, report
from mai.plan.report.plan_values import Plan
from mai.plan.report.planned_run import planned_run
from mai.plan.report.ranking import ranked
from mai.plan.report.schema import FILE, SCHEMA
from mai.plan.setting.of_recipe import setting_of, within
from mai.plan.software import load_software
from mai.recipe import Recipe, load, override
from tests.unit.plan.goodput.recorder import Recorder
from tests.unit.recipe.samples import small

PUBLISHED = json.loads(FILE.read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(PUBLISHED)
MAI = load_software("mai")


def plan(recipe: Recipe, cluster: Cluster, gpus: int | None) -> Plan:
    filled = within(recipe, cluster, gpus)
    return report(filled, setting_of(filled, cluster, MAI), gpus=gpus)


def shipped(name: str, cluster: str = "h100", gpus: int = 15_000, *words: str) -> Plan:
    return plan(override.apply(load.find(name)(), words), load_cluster(cluster), gpus)


ONE_NODE = [f"parallel.{axis}=1" for axis in ("context", "pipeline", "virtual_stages", "data")] + [
    "parallel.stages=even"
]


def with_goodput(found: Plan, failures: str | Measured) -> Plan:
    run = planned_run(found, load_cluster(found.cluster.name))
    if isinstance(failures, str):
        return replace(found, goodput=goodput_of(load_failures(failures), run, runs=2))
    return replace(found, goodput=goodput_of(own_failures(failures), run, own=failures, runs=2))


def own_run() -> Measured:
    with TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "run")
        recorder.live(40, code=ExitCode.HANG)
        recorder.live(60)
        return recorder.measured


def with_proof(name: str, *, fault: bool = False) -> Plan:
    """With a fault, one rank leaves out its last call."""
    recipe = within(load.find(name)(), load_cluster("h100"), 15_000)
    layout = Layout.of(recipe.parallel, recipe.parallel.model_ranks * (recipe.parallel.data or 1))
    proof = prove_schedule(programs(recipe, layout), layout)
    if fault:
        (program,) = programs(recipe, layout)
        proof = prove(families(layout), lambda rank: program[:-1] if rank == 1 else program)
    return replace(shipped(name), schedule=placed(proof, layout))


def with_placement(name: str, cluster: Cluster, gpus: int) -> Plan:
    recipe = within(load.find(name)(), cluster, gpus)
    setting = setting_of(recipe, cluster, MAI)
    ranks, traffic = map_and_traffic(programs(recipe, setting.layout), setting, step_seconds=1.0, gpus_booked=gpus)
    return replace(plan(recipe, cluster, gpus), map=ranks, traffic=traffic)


@cache
def outputs() -> dict[str, Any]:
    """As a program reads them."""
    h100 = load_cluster("h100")
    fast = replace(h100, storage=Storage(write_gb_per_second=2000, node_write_gb_per_second=20))
    made = {
        "dense": shipped("mai1_500b"),
        "experts": shipped("mai1_500b_moe"),
        "full sharding": shipped("llama3_8b", "h100", 128, "parallel.sharding=full"),
        "does not fit": shipped("mai1_500b", "h100", 15_000, *ONE_NODE),
        "no price": shipped("mai1_500b", "b200"),
        "memory unknown": shipped("mai1_500b_moe", "maia100"),
        "a rack of nodes": shipped("mai1_500b", "gb200_nvl72", 14_976),
        "storage": plan(load.find("mai1_500b")(), fast, 15_000),
        "one rank": plan(replace(small(), parallel=replace(small().parallel, data=1)), h100, 8),
        "whole run": of_whole_run([shipped("mai1_500b"), shipped("mai1_500b_256k")]),
        "failures": with_goodput(shipped("mai1_500b"), "llama3"),
        "failures of a run folder": with_goodput(shipped("mai1_500b"), own_run()),
        "failures without a price": with_goodput(shipped("mai1_500b", "b200"), "meta_rsc1"),
        "proof": with_proof("mai1_500b_moe"),
        "proof that fails": with_proof("llama3_8b", fault=True),
        "placement": with_placement("mai1_500b_moe", h100, 15_000),
        "placement on racks": with_placement("mai1_500b", load_cluster("gb200_nvl72"), 15_000),
        "placement of one rank": with_placement("tiny", h100, 1),
        "search": ranked(load.find("mai1_500b")(), h100, MAI, gpus=15_000),
        "search of nothing that fits": ranked(load.find("mai1_500b")(), h100, MAI, gpus=64),
    }
    return {name: json.loads(json.dumps(published(found))) for name, found in made.items()}


@pytest.mark.parametrize("name", outputs())
def test_an_output_keeps_to_the_schema_that_it_names(name: str) -> None:
    values = outputs()[name]
    VALIDATOR.validate(values)
    assert values["schema"] == SCHEMA
    assert FILE.name == f"plan-{SCHEMA['major']}.json"
    assert PUBLISHED["title"] == f"mai plan --json, version {SCHEMA['major']}.{SCHEMA['minor']}"


def test_an_error_keeps_to_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    echo_error(ExitCode.CONFIG, ["model.num_layers=0: must be above 0"])
    VALIDATOR.validate(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("name", "path", "wrong"),
    [
        ("dense", ("step", "seconds"), "7.4"),
        ("dense", ("step", "seconds"), None),
        ("dense", ("memory", "stages", 0, "needed_bytes"), 1.5),
        ("dense", ("layout", "tensors"), 8),
        ("dense", ("phase", "money"), -1),
        ("dense", ("schema", "major"), 2),
        ("experts", ("imbalance",), 0.5),
        ("whole run", ("run", "phases"), "mai1-500b"),
        ("search", ("best", 0, "loses"), None),
        ("failures", ("goodput", "expected", "closed_form"), 94.6),
        ("failures of a run folder", ("goodput", "replayed", "goodput"), None),
        ("failures", ("goodput", "levers", 0, "move", "what"), None),
        ("proof", ("schedule", "operations", 0, "kind"), "gather"),
        ("placement", ("map", "stages", 0, "first_node"), "node0"),
        ("placement", ("traffic", "levels", 1, "families", 0, "bytes"), 0.5),
        ("proof that fails", ("schedule", "findings", 0, "calls", 0, "coordinates", "rank"), 1),
    ],
)
def test_a_wrong_value_is_found(name: str, path: tuple[Any, ...], wrong: object) -> None:
    values = copy.deepcopy(outputs()[name])
    *before, last = path
    place = values
    for key in before:
        place = place[key]
    place[last] = wrong
    assert not VALIDATOR.is_valid(values)


@pytest.mark.parametrize("path", [("disk",), ("memory", "fits"), ("schema",)])
def test_a_missing_value_is_found(path: tuple[str, ...]) -> None:
    values = copy.deepcopy(outputs()["dense"])
    *before, last = path
    place = values
    for key in before:
        place = place[key]
    del place[last]
    assert not VALIDATOR.is_valid(values)


def test_the_schema_is_one_and_describes_every_field() -> None:
    Draft202012Validator.check_schema(PUBLISHED)
    silent = [path for path, field in fields(PUBLISHED) if not resolved(field).get("description", "").endswith(".")]
    assert not silent
    open_ended = [path for path, field in fields(PUBLISHED) if is_open(resolved(field))]
    assert open_ended == ["$defs/cluster/sources", "$defs/goodput/sources"], "keys that nobody can list: of a file"


@pytest.mark.parametrize("name", outputs())
def test_every_key_of_an_output_is_described(name: str) -> None:
    values = outputs()[name]
    shape = "ranking" if "best" in values else "plan"
    assert not list(undescribed(values, PUBLISHED["$defs"][shape], shape))


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, inner in schema.get("$defs", {}).items():
        yield from fields(inner, f"$defs/{name}")
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}/{name}", inner
        yield from fields(inner, f"{path}/{name}")


def is_open(field: dict[str, Any]) -> bool:
    return field.get("type") == "object" and field.get("additionalProperties") is not False


def resolved(field: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to, with the words beside it."""
    if "$ref" not in field:
        return field
    return {**PUBLISHED["$defs"][field["$ref"].removeprefix("#/$defs/")], **field}


def undescribed(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Keys of the value that no `properties` of the schema names, walked without the validator."""
    schema = resolved(schema)
    if "oneOf" in schema:
        schema = resolved(schema["oneOf"][0])
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from undescribed(each, schema.get("items", {}), f"{path}[{number}]")
    elif isinstance(value, dict) and "properties" in schema:
        for key, each in value.items():
            if key not in schema["properties"]:
                yield f"{path}.{key}"
            else:
                yield from undescribed(each, schema["properties"][key], f"{path}.{key}")
    elif isinstance(value, dict) and not path.endswith(".sources"):
        yield path
