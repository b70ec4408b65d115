"""Which ranks must lie together for the predicted time to hold, and which had better: as values and as sentences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mai.hardware.cluster import Cluster
from mai.plan.placement.family_span import block_ranks, families, is_on_one_rail, level_of, most_parts
from mai.plan.placement.topology import CLUSTER, PLACES, Level, levels
from mai.plan.setting.setting import Setting
from mai.plan.time.network import Group


def placement(setting: Setting) -> dict[str, Any]:
    """Of every family of groups, as JSON values; `mai/plan/time` reckons with the least."""
    cluster, world_size = setting.cluster, setting.layout.world_size
    there = dict(families(setting.layout))
    if setting.layout.context == 1:
        there.pop("data_with_context", None)  # the same groups as `data`
    found = [_of_family(name, group, setting) for name, group in there.items()]
    return {
        "gpus_per_node": cluster.gpus_per_node,
        "nodes": -(-world_size // cluster.gpus_per_node),
        "levels": [{"level": level.name, "gpus": level.gpus} for level in levels(cluster)],
        "families": found,
        "sentences": list(_sentences(cluster, found)),
    }


def _of_family(name: str, group: Group, setting: Setting) -> dict[str, Any]:
    cluster, world_size = setting.cluster, setting.layout.world_size
    there, inside = levels(cluster), group.inside(cluster)
    return {
        "family": name,
        "ranks": group.ranks,
        "stride": group.stride,
        "groups": world_size // group.ranks,
        "level": level_of(group, there, world_size),
        "minimum": None if inside == 1 else {"level": _scale_up(cluster, there), "ranks": inside},
        "minimum_holds": most_parts(group, cluster.scale_up.gpus, world_size) <= group.nodes(cluster),
        "preferred": next((level.name for level in there if level.gpus >= block_ranks(group)), CLUSTER),
        "one_rail": is_on_one_rail(group, cluster),
    }


def _scale_up(cluster: Cluster, there: Sequence[Level]) -> str:
    """The level that is as large as the NVLink domain, by the name that it has among them."""
    return next(level.name for level in there if level.gpus == cluster.scale_up.gpus)


def _sentences(cluster: Cluster, found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"ranks fill nodes in their order: rank r takes slot r % {cluster.gpus_per_node} of its node"
    for family in found:
        name, ranks, least = _words(family), family["ranks"], family["minimum"]
        if least is not None:
            of = f"all {ranks}" if least["ranks"] == ranks else f"every {least['ranks']} of the {ranks}"
            broken = "" if family["minimum_holds"] else ", which this order does not give to all of them"
            yield f"{name}: {of} ranks of a group must share {PLACES[least['level']]}{broken}"
        if (place := family["preferred"]) in ("leaf", "pod"):
            in_a_row = ranks * family["stride"]
            broken = "" if family["level"] == place else ", and some of them reach over its end in this order"
            yield f"{name}: {in_a_row:,} ranks in a row had better share {PLACES[place]}{broken}"
    rails = [_words(family) for family in found if family["one_rail"]]
    if rails:
        yield f"on one rail each, where GPUs keep their number in the node: {', '.join(rails)}"


def _words(family: Mapping[str, Any]) -> str:
    name: str = family["family"]
    return name.replace("_", " ")
