"""A recipe on a cluster as the Setting that memory and time are predicted of; its data ranks fill a budget of GPUs."""

from dataclasses import replace

from mai.errors import PlanError, RecipeError
from mai.hardware.cluster import Cluster
from mai.optimizer.optimizers import checkpoint_bytes, optimizer_of
from mai.parallel.layout import Layout, num_micro_batches
from mai.plan.model.architecture import of_model
from mai.plan.setting.setting import Setting
from mai.plan.software import Software
from mai.recipe import Recipe, rules


def within(recipe: Recipe, cluster: Cluster, gpus: int | None) -> Recipe:
    """The recipe with its data ranks: its own, or else the most within the budget that share its batch evenly.

    The budget is `gpus`, or all that the cluster has. Raises PlanError where it cannot be had or nobody states one,
    RecipeError where the layout does not fit into it.
    """
    parallel = recipe.parallel
    usable = usable_gpus(cluster, gpus)
    if parallel.data is not None:
        ranks = parallel.model_ranks * parallel.data if usable is None else rules.ranks_within(parallel, usable)
        rules.check(recipe, ranks)
        return recipe
    if usable is None:
        raise PlanError(
            f"{cluster.name} does not say how many nodes it has, and parallel.data is open: "
            f"add --gpus with {rules.smallest_world(parallel)} or more"
        )
    return _filled(recipe, rules.ranks_within(parallel, usable) // parallel.model_ranks)


def _filled(recipe: Recipe, most: int) -> Recipe:
    """With the most data ranks up to `most` that break no rule; RecipeError with what the most would break."""
    sequences = recipe.batch_sequences // recipe.parallel.micro_batch_sequences
    for data in range(min(most, sequences), 0, -1):
        candidate = replace(recipe, parallel=replace(recipe.parallel, data=data))
        if sequences % data == 0 and not rules.violations(candidate):
            return candidate
    filled = replace(recipe, parallel=replace(recipe.parallel, data=most))
    raise RecipeError(*rules.violations(filled))


def most_data(recipe: Recipe, cluster: Cluster, gpus: int | None) -> int:
    """Data ranks that `parallel.data=none` would give to a recipe which names its own."""
    assert recipe.parallel.data is not None
    if usable_gpus(cluster, gpus) is None:
        return recipe.parallel.data
    filled = within(replace(recipe, parallel=replace(recipe.parallel, data=None)), cluster, gpus)
    assert filled.parallel.data is not None
    return filled.parallel.data


def usable_gpus(cluster: Cluster, gpus: int | None) -> int | None:
    """GPUs that may hold ranks: those of whole nodes that are not spare ones. None where nobody says."""
    if gpus is not None and gpus < cluster.gpus_per_node and not cluster.spare_nodes:
        return gpus  # a part of one node
    counted = cluster if gpus is None else cluster.with_gpus(gpus)
    return None if counted.nodes is None else (counted.nodes - counted.spare_nodes) * counted.gpus_per_node


def setting_of(recipe: Recipe, cluster: Cluster, software: Software, *, imbalance: float = 1.0) -> Setting:
    """The Setting of a checked recipe that names its data ranks (`within`)."""
    parallel = recipe.parallel
    assert parallel.data is not None
    layout = Layout.of(parallel, parallel.model_ranks * parallel.data)
    return Setting(
        architecture=of_model(recipe.model),
        parallel=parallel,
        sequence_length=recipe.data.sequence_length,
        num_micro_batches=num_micro_batches(recipe, layout),
        precision=recipe.precision.compute,
        software=software,
        cluster=cluster,
        kept_bytes=checkpoint_bytes(optimizer_of(recipe.optimizer)),
        imbalance=imbalance,
    )
