"""Which ranks must lie together for the predicted time to hold, and which had better: as values and as sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mai.hardware.cluster import Cluster
from mai.plan.placement.family_span import block_ranks, families, is_on_one_rail, level_of, most_parts
from mai.plan.placement.topology import CLUSTER, PLACES, Level, levels
from mai.plan.setting.setting import Setting
from mai.plan.time.network import Group


@dataclass(frozen=True, slots=True)
class Minimum:
    """Ranks of a group that must share a part."""

    level: str
    ranks: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyPlacement:
    family: str
    ranks: int
    """How many ranks each group has."""
    stride: int
    """From a rank to the next."""
    groups: int
    level: str
    """The smallest whose parts hold each group whole, where ranks lie in their order."""
    minimum: Minimum | None
    """With which the predicted time reckons."""
    minimum_holds: bool
    preferred: str
    one_rail: bool | None
    """Whether each group hangs on one; None where the cluster names no rails."""

    @property
    def words(self) -> str:
        return self.family.replace("_", " ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    gpus_per_node: int
    nodes: int
    levels: list[Level]
    families: list[FamilyPlacement]
    sentences: list[str]
    """The same in words."""


def placement(setting: Setting) -> Placement:
    """What every family of groups wants; `mai/plan/time` reckons with the least."""
    cluster, world_size = setting.cluster, setting.layout.world_size
    there = dict(families(setting.layout))
    if setting.layout.context == 1:
        there.pop("data_with_context", None)  # the same groups as `data`
    found = [_of_family(name, group, setting) for name, group in there.items()]
    return Placement(
        gpus_per_node=cluster.gpus_per_node,
        nodes=-(-world_size // cluster.gpus_per_node),
        levels=list(levels(cluster)),
        families=found,
        sentences=list(_sentences(cluster, found)),
    )


def _of_family(name: str, group: Group, setting: Setting) -> FamilyPlacement:
    cluster, world_size = setting.cluster, setting.layout.world_size
    there, inside = levels(cluster), group.inside(cluster)
    return FamilyPlacement(
        family=name,
        ranks=group.ranks,
        stride=group.stride,
        groups=world_size // group.ranks,
        level=level_of(group, there, world_size),
        minimum=None if inside == 1 else Minimum(_scale_up(cluster, there), inside),
        minimum_holds=most_parts(group, cluster.scale_up.gpus, world_size) <= group.nodes(cluster),
        preferred=next((level.name for level in there if level.gpus >= block_ranks(group)), CLUSTER),
        one_rail=is_on_one_rail(group, cluster),
    )


def _scale_up(cluster: Cluster, there: Sequence[Level]) -> str:
    """The level that is as large as the NVLink domain, by the name that it has among them."""
    return next(level.name for level in there if level.gpus == cluster.scale_up.gpus)


def _sentences(cluster: Cluster, found: Sequence[FamilyPlacement]) -> Iterator[str]:
    yield f"ranks fill nodes in their order: rank r takes slot r % {cluster.gpus_per_node} of its node"
    for family in found:
        ranks, least, place = family.ranks, family.minimum, family.preferred
        if least is not None:
            of = f"all {ranks}" if least.ranks == ranks else f"every {least.ranks} of the {ranks}"
            broken = "" if family.minimum_holds else ", which this order does not give to all of them"
            yield f"{family.words}: {of} ranks of a group must share {PLACES[least.level]}{broken}"
        if place in ("leaf", "pod"):
            in_a_row = ranks * family.stride
            broken = "" if family.level == place else ", and some of them reach over its end in this order"
            yield f"{family.words}: {in_a_row:,} ranks in a row had better share {PLACES[place]}{broken}"
    rails = [family.words for family in found if family.one_rail]
    if rails:
        yield f"on one rail each, where GPUs keep their number in the node: {', '.join(rails)}"
