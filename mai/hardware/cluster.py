"""What links, disks and an hour give and cost: `Cluster`, read from a TOML file that names its GPU.

As in a GPU's file, a number stands with its source, and one that nobody published is None. The clusters that ship with
mai are kinds of hardware, not places: they have no number of nodes until `with_gpus` says one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mai.errors import PlanError
from mai.hardware.gpu import Gpu, load_gpu
from mai.hardware.names import names_in, read_named
from mai.hardware.toml_file import MAY_BE_ZERO, NOT_A_KEY, Findings, build

_SHIPPED = Path(__file__).parent / "clusters"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleUp:
    """The network inside a node, or inside a rack whose nodes share NVLink switches."""

    gpus: int
    """GPUs that it joins: 8 in a node, 72 in an NVL72."""

    gb_per_second: float
    """One way, a GPU."""

    latency_microseconds: float | None = None
    """What one step of a ring adds, however little is sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleOut:
    """The network between those."""

    gb_per_second: float
    """One way, a GPU."""

    latency_microseconds: float | None = None
    """What one step of a ring adds, however little is sent."""

    rails: int | None = None
    """Separate networks at the leaves: GPUs of the same number in their node share one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FabricLevel:
    """The switches of one level of the network between nodes, and what is below them."""

    nodes: int
    """Nodes that reach each other without going above this level."""

    oversubscription: float
    """Bandwidth from below over bandwidth to above: 1 loses nothing, 7 leaves a seventh."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """The file system that checkpoints go to."""

    write_gb_per_second: float | None = None
    read_gb_per_second: float | None = None
    node_write_gb_per_second: float | None = None
    node_read_gb_per_second: float | None = None
    capacity_tb: float | None = None

    def write_bytes_per_second(self, nodes: int) -> float | None:
        """What so many nodes write together; unknown where only the rate of one is stated: all of them may be too
        many."""
        return _together(self.write_gb_per_second, self.node_write_gb_per_second, nodes)

    def read_bytes_per_second(self, nodes: int) -> float | None:
        return _together(self.read_gb_per_second, self.node_read_gb_per_second, nodes)


def _together(storage: float | None, node: float | None, nodes: int) -> float | None:
    return None if storage is None else 1e9 * min(storage, nodes * (node or storage))


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What an hour and a kilowatt-hour cost, in one currency."""

    currency: str

    gpu_hour: float | None = None
    gpu_hour_buys: str | None = None
    """What it is the price of: a rented GPU with its share of everything, or the owner's cost without electricity."""

    kilowatt_hour: float | None = field(default=None, metadata=MAY_BE_ZERO)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """The building and its grid."""

    power_usage_effectiveness: float | None = None
    """Power of the whole building over that of its machines (PUE)."""

    carbon_grams_per_kilowatt_hour: float | None = field(default=None, metadata=MAY_BE_ZERO)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Nodes of one kind of GPU, what joins them, and what they cost."""

    name: str = field(metadata=NOT_A_KEY)

    gpu: Gpu = field(metadata={"named": load_gpu})
    gpus_per_node: int
    """A node is what fails, is replaced and is scheduled as one: a tray of 4 in an NVL72, not its rack."""

    nodes: int | None = None
    """All there are, spare ones included; None as long as nobody says (`with_gpus`)."""

    spare_nodes: int = field(default=0, metadata=MAY_BE_ZERO)
    """Those of `nodes` that wait for another one to break."""

    scale_up: ScaleUp
    scale_out: ScaleOut

    leaf: FabricLevel | None = None
    pod: FabricLevel | None = None

    storage: Storage = Storage()
    price: Price | None = None
    site: Site = Site()

    sources: Mapping[str, str] = field(default_factory=dict, metadata=NOT_A_KEY, repr=False, hash=False)
    """Where numbers come from, by the path of their key, such as `scale_out.gb_per_second`."""

    def with_gpus(self, num_gpus: int) -> "Cluster":
        """This cluster with the whole nodes that a budget of GPUs makes.

        Raises PlanError when the budget makes too few nodes, or the cluster has not so many.
        """
        least = (self.spare_nodes + 1) * self.gpus_per_node
        if num_gpus < least:
            has = f"gpus_per_node={self.gpus_per_node} and spare_nodes={self.spare_nodes}"
            raise PlanError(f"{num_gpus} GPUs: too few for {self.name} with {has}; ask for {least} or more")
        if self.nodes is not None and num_gpus > self.nodes * self.gpus_per_node:
            raise PlanError(
                f"{num_gpus} GPUs: too many for {self.name} with {self.nodes} nodes of {self.gpus_per_node}"
            )
        return replace(self, nodes=num_gpus // self.gpus_per_node)


def load_cluster(name_or_path: str | Path) -> Cluster:
    """The cluster that ships under this name, or that a TOML file of the user's own describes.

    Raises PlanError with everything that is wrong with the file.

    Example:
        load_cluster("h100").with_gpus(15_000)
        load_cluster("clusters/ours.toml")
    """
    file, table = read_named(name_or_path, "cluster", _SHIPPED)
    findings = Findings()
    cluster = build(Cluster, table, findings, name=file.stem, sources=findings.sources)
    violations = findings.violations + (_breaches(cluster) if cluster else [])
    if violations or cluster is None:
        raise PlanError(*(f"{file}: {violation}" for violation in violations))
    return cluster


def cluster_names() -> list[str]:
    """The clusters that ship with mai."""
    return names_in(_SHIPPED)


def _breaches(cluster: Cluster) -> list[str]:
    """The rules between keys that this cluster breaks."""
    breaches = []
    if cluster.nodes is not None and cluster.spare_nodes >= cluster.nodes:
        breaches.append(f"spare_nodes={cluster.spare_nodes}: must be below nodes={cluster.nodes}, which includes them")
    inside, node = cluster.scale_up.gpus, cluster.gpus_per_node
    if max(inside, node) % min(inside, node):
        breaches.append(f"scale_up.gpus={inside}: must be a part or a multiple of gpus_per_node={node}")
    if node % (rails := cluster.scale_out.rails or 1):
        breaches.append(f"scale_out.rails={rails}: must divide gpus_per_node={node}")
    if cluster.leaf and cluster.pod and cluster.leaf.nodes > cluster.pod.nodes:
        breaches.append(f"leaf.nodes={cluster.leaf.nodes}: must not be above pod.nodes={cluster.pod.nodes}")
    if cluster.price and cluster.price.gpu_hour is not None and cluster.price.gpu_hour_buys is None:
        breaches.append("price.gpu_hour_buys: missing; say what price.gpu_hour is the price of")
    return breaches
