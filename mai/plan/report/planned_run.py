"""What goodput depends on of a plan."""

from mai.hardware.cluster import Cluster
from mai.plan.goodput.expected import PlannedRun
from mai.plan.report.plan_values import Plan


def planned_run(plan: Plan, cluster: Cluster) -> PlannedRun:
    """The run of a plan on this cluster: its phase, whatever came before."""
    stopping = plan.scheduler.stopping
    return PlannedRun(
        gpus=plan.gpus.in_use,
        gpus_per_node=cluster.gpus_per_node,
        spare_nodes=plan.gpus.spares // cluster.gpus_per_node,
        step_seconds=plan.step.time.seconds,
        useful_seconds=plan.phase.seconds,
        save_interval_seconds=stopping.save_interval_seconds,
        checkpoint_bytes=plan.disk.checkpoint_bytes,
        save_seconds=plan.scheduler.grace.save_seconds,
        load_seconds=stopping.load_seconds,
        gpu_hour_price=cluster.price.gpu_hour if cluster.price else None,
        currency=cluster.price.currency if cluster.price else None,
    )
