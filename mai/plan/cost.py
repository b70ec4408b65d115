"""What a time on a cluster costs: GPU hours, money, energy, carbon; and what a run needs of disks.

Whatever follows from a number that nobody stated is None: unknown, never 0.
"""

from dataclasses import dataclass, replace

from mai.hardware.cluster import Cluster, Price
from mai.model.shapes import num_parameters
from mai.optimizer.optimizers import checkpoint_bytes, optimizer_of
from mai.recipe import Recipe

_GPUS_OF_MEASURED_NODE = 8
_DEFAULT_CURRENCY = "USD"


@dataclass(frozen=True, slots=True)
class Cost:
    gpu_hours: float
    """What all booked GPUs take, spare ones included."""
    money: float | None
    """In the currency of the cluster's price; with electricity where that has a price of its own."""
    energy_kilowatt_hours: float | None
    """What the GPUs in use take with their share of the node, and the building around them where its PUE is known."""
    carbon_kilograms: float | None

    def __add__(self, other: "Cost") -> "Cost":
        """What is unknown of one is unknown of both."""
        return Cost(
            self.gpu_hours + other.gpu_hours,
            _sum(self.money, other.money),
            _sum(self.energy_kilowatt_hours, other.energy_kilowatt_hours),
            _sum(self.carbon_kilograms, other.carbon_kilograms),
        )


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def cost(cluster: Cluster, *, seconds: float, gpus_in_use: int, gpus_booked: int) -> Cost:
    """What so many seconds cost."""
    hours = seconds / 3600
    gpu_hours = hours * gpus_booked
    watts = gpu_watts(cluster)
    usage = cluster.site.power_usage_effectiveness or 1.0
    energy = None if watts is None else hours * gpus_in_use * watts * usage / 1000
    grams = cluster.site.carbon_grams_per_kilowatt_hour
    return Cost(
        gpu_hours=gpu_hours,
        money=_money(cluster.price, gpu_hours, energy),
        energy_kilowatt_hours=energy,
        carbon_kilograms=None if energy is None or grams is None else energy * grams / 1000,
    )


def _money(price: Price | None, gpu_hours: float, energy_kilowatt_hours: float | None) -> float | None:
    if price is None or price.gpu_hour is None:
        return None
    money = gpu_hours * price.gpu_hour
    if price.kilowatt_hour is None:
        return money
    return None if energy_kilowatt_hours is None else money + energy_kilowatt_hours * price.kilowatt_hour


def gpu_watts(cluster: Cluster) -> float | None:
    """What a GPU and its share of the node take while it trains, measured.

    Not from the TDP: energy models that start there err by 27 to 37% (Latif et al. 2025)."""
    node_watts = cluster.gpu.eight_gpu_node_watts
    if node_watts is None or cluster.gpus_per_node != _GPUS_OF_MEASURED_NODE:
        return None
    return node_watts / _GPUS_OF_MEASURED_NODE


def with_prices(
    cluster: Cluster, *, gpu_hour: float | None, kilowatt_hour: float | None, carbon_grams: float | None
) -> Cluster:
    """The cluster with what the user states in place of its own numbers; None leaves one as it is."""
    price, site, sources = cluster.price, cluster.site, dict(cluster.sources)
    if gpu_hour is not None or kilowatt_hour is not None:
        price = price or Price(currency=_DEFAULT_CURRENCY)
    if price is not None and gpu_hour is not None:
        price = replace(price, gpu_hour=gpu_hour, gpu_hour_buys="what --price states")
        sources["price.gpu_hour"] = "--price"
    if price is not None and kilowatt_hour is not None:
        price = replace(price, kilowatt_hour=kilowatt_hour)
        sources["price.kilowatt_hour"] = "--power-price"
    if carbon_grams is not None:
        site = replace(site, carbon_grams_per_kilowatt_hour=carbon_grams)
        sources["site.carbon_grams_per_kilowatt_hour"] = "--carbon"
    return replace(cluster, price=price, site=site, sources=sources)


@dataclass(frozen=True, slots=True)
class Disk:
    checkpoint_bytes: int
    """What one checkpoint takes."""
    checkpoints_bytes: int
    """What all checkpoints take that are kept, and the one that is being written before the oldest goes."""
    data_bytes: int
    """What the token shards take, where no token is read twice."""


def disk(recipe: Recipe) -> Disk:
    """What the run's folder and its data take."""
    one = num_parameters(recipe.model) * checkpoint_bytes(optimizer_of(recipe.optimizer))
    tokens = recipe.train.steps * recipe.train.batch_tokens
    return Disk(one, (recipe.checkpoint.keep + 1) * one, tokens * token_bytes(recipe.model.vocab_size))


def token_bytes(vocabulary: int) -> int:
    """What a token takes in a shard (mai/data/dataset_manifest.py, token_type_of)."""
    return 2 if vocabulary <= 2**16 else 4
