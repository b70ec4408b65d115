"""What failures are expected to leave of a planned run, in closed form, and the course that leaves most.

What the plan knows goes before what the list of failures says: with the bandwidth of the cluster's storage a far save
and a far load take what the plan's checkpoint takes.
"""

from dataclasses import dataclass, replace

from mai.plan.goodput.course import Course
from mai.plan.goodput.failures import Failures, restart_of
from mai.plan.goodput.intervals import Tier, best_two_tiers, two_tier_goodput
from mai.plan.goodput.spares import enough, waiting_share

NEARLY_ALWAYS = 0.999
"""The share of the time in which spares should be enough."""
LEAST = 0.01
"""The least goodput of a run that is taken to end; with less its days and its money are unknown."""
_LONGEST_RESTART_SECONDS = 1e6
_EXACT_ENOUGH_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """What goodput depends on of a plan."""

    gpus: int
    """In use."""
    gpus_per_node: int
    spare_nodes: int
    step_seconds: float
    useful_seconds: float
    """What all steps take, if nothing fails and no save stalls."""
    save_interval_seconds: float | None = None
    """From save to save as the recipe has it; None: it saves at its end alone."""
    checkpoint_bytes: int
    save_seconds: float | None = None
    load_seconds: float | None = None
    """What a save to storage takes, and a load from it; None is unknown."""
    gpu_hour_price: float | None = None
    currency: str | None = None

    @property
    def gpus_booked(self) -> int:
        return self.gpus + self.spare_nodes * self.gpus_per_node


def as_planned(failures: Failures, run: PlannedRun) -> Failures:
    """With the plan's own seconds of a far save and a far load, where they are known."""
    checkpoint, restart, sources = failures.checkpoint, failures.restart, dict(failures.sources)
    if run.save_seconds is not None:
        checkpoint = replace(checkpoint, far_stall_seconds=run.save_seconds)
        sources["checkpoint.far_stall_seconds"] = "the plan: scheduler.grace.save_seconds"
    # A measured restart has its load within another step.
    if run.load_seconds is not None and restart.load_far_seconds:
        restart = replace(restart, load_far_seconds=run.load_seconds)
        sources["restart.load_far_seconds"] = "the plan: scheduler.stopping.load_seconds"
    return replace(failures, checkpoint=checkpoint, restart=restart, sources=sources)


def tiers(failures: Failures) -> tuple[Tier, Tier]:
    """Near and far, each with its mean restart: only where something broke a node is replaced."""
    causes = failures.causes.values()
    near_counts = [cause.count * failures.near_chance(cause) for cause in causes]
    far_counts = [cause.count - near for cause, near in zip(causes, near_counts, strict=True)]

    def restart_seconds(counts: list[float], *, is_near: bool) -> float:
        replaced = sum(count for count, cause in zip(counts, causes, strict=True) if cause.breaks != "nothing")
        share = replaced / sum(counts) if sum(counts) else 0.0
        always, once = (
            sum(failures.restart.steps(is_near=is_near, replaces=replaces).values()) for replaces in (False, True)
        )
        return always + share * (once - always)

    stalls = failures.checkpoint
    return (
        Tier(stalls.near_stall_seconds, restart_seconds(near_counts, is_near=True)),
        Tier(stalls.far_stall_seconds, restart_seconds(far_counts, is_near=False)),
    )


def best_course(failures: Failures, run: PlannedRun) -> Course:
    """The course whose intervals leave most, in whole steps."""
    near, far = tiers(failures)
    mean = failures.mean_seconds(run.gpus)
    best = best_two_tiers(near=near, far=far, mean_seconds=mean, near_share=failures.near_share)
    seconds = min(best.near_interval_seconds, run.useful_seconds)
    steps = max(1, round(seconds / run.step_seconds))
    slow = failures.slow_nodes
    return Course(
        near_interval_seconds=steps * run.step_seconds,
        saves_per_far_save=best.saves_per_far_save,
        near_stall_seconds=near.stall_seconds,
        far_stall_seconds=far.stall_seconds,
        restart=failures.restart,
        spare_nodes=run.spare_nodes,
        repair_seconds=failures.repair.seconds,
        slow_node_mean_seconds=failures.slow_node_mean_seconds(run.gpus),
        slowdown=slow.slowdown if slow else 1.0,
        slow_unnoticed_seconds=slow.noticed_after_hours * 3600 if slow else 0.0,
    )


def failures_per_repair(failures: Failures, gpus: int) -> dict[int, float]:
    """In the mean time of a repair, by the nodes that each breaks; a slow node is one."""
    mean, repair = failures.mean_seconds(gpus), failures.repair.seconds
    rates = dict.fromkeys((1, failures.repair.rack_nodes), 0.0)
    rates[1] += repair / failures.slow_node_mean_seconds(gpus)
    for cause in failures.causes.values():
        if nodes := failures.broken_nodes(cause.breaks):
            rates[nodes] += repair / mean * cause.count / failures.total
    return rates


def nodes_in_repair(failures: Failures, gpus: int) -> float:
    """Their mean, if the run never waits for one."""
    return sum(nodes * rate for nodes, rate in failures_per_repair(failures, gpus).items())


def enough_spares(failures: Failures, run: PlannedRun, *, confidence: float) -> int:
    """The fewest that are enough this share of the time, where the run goes on whatever is in repair."""
    return enough(failures_per_repair(failures, run.gpus), confidence=confidence)


def closed_form(failures: Failures, course: Course, gpus: int) -> float:
    """Goodput of the two tiers, times what corruption, slow nodes and missing spares leave, each at first order.

    Failures are exponential here, whatever `weibull_shape` says: bursts leave more (the simulation knows).
    """
    near, far = tiers(failures)
    mean = failures.mean_seconds(gpus)
    kept = two_tier_goodput(
        course.near_interval_seconds,
        course.saves_per_far_save,
        near=near,
        far=far,
        mean_seconds=mean,
        near_share=failures.near_share,
    )
    kept *= max(0.0, 1 - failures.mean_unnoticed_seconds / mean)
    replaced = sum(course.restart.steps(is_near=course.loads_near, replaces=True, is_planned=True).values())
    slowed = course.slow_unnoticed_seconds * (1 - 1 / course.slowdown)
    kept *= max(0.0, 1 - (slowed + replaced) / (course.slow_node_mean_seconds + course.slow_unnoticed_seconds))
    return kept * (1 - waiting_share(failures_per_repair(failures, gpus), course.spare_nodes))


def best_goodput(failures: Failures, run: PlannedRun) -> float:
    """In closed form, at the best intervals."""
    return closed_form(failures, best_course(failures, run), run.gpus)


def restart_budget(failures: Failures, run: PlannedRun, *, goal: float) -> float | None:
    """Seconds that a restart may take on average to leave this much, where there are enough spares and a far one takes
    longer than a near one by as much as now; None where no restart is fast enough."""
    run = replace(run, spare_nodes=enough_spares(failures, run, confidence=NEARLY_ALWAYS))
    far_extra = max(0.0, failures.restart.load_far_seconds - failures.restart.load_near_seconds)

    def reaches(seconds: float) -> bool:
        restart = restart_of(first_step_seconds=seconds, load_far_seconds=far_extra)
        return best_goodput(replace(failures, restart=restart), run) >= goal

    if not reaches(0.0):
        return None
    low, high = 0.0, 60.0
    while high < _LONGEST_RESTART_SECONDS and reaches(high):
        low, high = high, 2 * high
    while high - low > _EXACT_ENOUGH_SECONDS:
        middle = (low + high) / 2
        low, high = (middle, high) if reaches(middle) else (low, middle)
    return low + (1 - failures.near_share) * far_extra


def mean_restart_seconds(failures: Failures) -> float:
    """Over all failures, near and far."""
    near, far = tiers(failures)
    return failures.near_share * near.restart_seconds + (1 - failures.near_share) * far.restart_seconds


def run_money(run: PlannedRun, goodput: float) -> float | None:
    """What the GPUs of the whole run cost, spare ones included; None without a price, or where it never ends."""
    if run.gpu_hour_price is None or goodput < LEAST:
        return None
    return run.gpus_booked * run.useful_seconds / 3600 / goodput * run.gpu_hour_price
