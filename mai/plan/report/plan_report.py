"""What `mai plan` tells of a recipe on a cluster: all of it as one value, which mai/plan/telling shows."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mai.hardware.cluster import Cluster
from mai.model.flops import FLOP_CONVENTION, flops_per_token
from mai.plan.cost import cost, disk, gpu_watts
from mai.plan.memory.layout_mends import mends
from mai.plan.memory.memory import memory
from mai.plan.model.model_flops import whole_square_flops_per_token
from mai.plan.report.plan_values import (
    ClusterReport,
    Gpus,
    LayoutMend,
    Phase,
    Plan,
    SoftwareReport,
    Speed,
    Step,
    WholeRun,
)
from mai.plan.report.schema import SCHEMA
from mai.plan.scheduler.scheduler_answers import answers
from mai.plan.setting.of_layout import trains, words
from mai.plan.setting.of_recipe import most_data
from mai.plan.setting.setting import Setting
from mai.plan.time.step_time import step_time
from mai.plan.time.trust import kind, trust
from mai.recipe import Recipe, fingerprint

_MILLION = 1_000_000


def report(recipe: Recipe, setting: Setting, *, gpus: int | None = None) -> Plan:
    """All numbers of a plan; None is unknown. `recipe` and `setting` are of the same layout, `gpus` is its budget: all
    that the cluster has where it is not stated."""
    in_use, booked = setting.layout.world_size, _booked(setting, gpus)
    time, needed = step_time(setting), memory(setting)
    return Plan(
        schema=SCHEMA,
        recipe=recipe.name,
        fingerprint=fingerprint(recipe),
        software=SoftwareReport(setting.software.name, setting.software.describes),
        cluster=_of_cluster(setting.cluster),
        gpus=Gpus(booked, in_use, booked - in_use, most_data(recipe, setting.cluster, gpus)),
        layout=setting.layout,
        sharding=setting.parallel.sharding,
        recompute=setting.parallel.recompute,
        micro_batches=setting.num_micro_batches,
        micro_batch_sequences=setting.parallel.micro_batch_sequences,
        sequence_length=setting.sequence_length,
        precision=setting.precision,
        imbalance=None if recipe.model.experts is None else setting.cut.imbalance,
        memory=needed,
        mends=[] if needed.fits else _of_mends(recipe, setting),
        step=Step(time, kind(setting), trust(setting, time.seconds)),
        speed=_of_speed(recipe, setting, time.seconds),
        phase=_of_phase(recipe, setting, time.seconds, booked),
        disk=disk(recipe),
        scheduler=answers(recipe, setting, step_seconds=time.seconds, gpus=gpus, gpus_booked=booked),
    )


def of_whole_run(phases: Sequence[Plan]) -> Plan:
    """The last phase's plan, and as its `run` all phases together: what is unknown of one is unknown of all."""
    every = [phase.phase for phase in phases]
    costs = [phase.cost for phase in every]
    run = WholeRun(
        phases=[phase.recipe for phase in phases],
        steps=sum(phase.steps for phase in every),
        tokens=sum(phase.tokens for phase in every),
        seconds=sum(phase.seconds for phase in every),
        days=sum(phase.days for phase in every),
        cost=sum(costs[1:], start=costs[0]),
    )
    return replace(phases[-1], run=run)


def _booked(setting: Setting, gpus: int | None) -> int:
    """GPUs that somebody pays for: the budget, or the whole of a cluster that says how large it is."""
    cluster = setting.cluster
    if gpus is not None:
        return gpus
    return setting.layout.world_size if cluster.nodes is None else cluster.nodes * cluster.gpus_per_node


def _of_cluster(cluster: Cluster) -> ClusterReport:
    return ClusterReport(
        name=cluster.name,
        gpu=cluster.gpu.name,
        gpu_watts=gpu_watts(cluster),
        gpu_watts_source=cluster.gpu.sources.get("eight_gpu_node_watts"),
        price=cluster.price,
        site=cluster.site,
        sources=cluster.sources,
    )


def _of_mends(recipe: Recipe, setting: Setting) -> list[LayoutMend]:
    """Changes of the layout as words that a person can add to the command, and what they give and cost."""
    return [
        LayoutMend(words(recipe, mend.setting.parallel), mend.freed_bytes, mend.fits, mend.slowdown)
        for mend in mends(setting, accepts=partial(trains, recipe))
    ]


def _of_speed(recipe: Recipe, setting: Setting, step_seconds: float) -> Speed:
    """Tokens, and model FLOPs over the GPUs' peak in the precision of the matrix products."""
    length = recipe.data.sequence_length
    per_gpu = setting.tokens / step_seconds / setting.layout.world_size
    peak = setting.cluster.gpu.peak_tflops(setting.precision)
    causal = per_gpu * flops_per_token(recipe.model, length) / 1e12
    full = per_gpu * whole_square_flops_per_token(setting.architecture, length) / 1e12
    return Speed(
        tokens_per_second=setting.tokens / step_seconds,
        tokens_per_second_per_gpu=per_gpu,
        model_tflops_per_gpu=causal,
        peak_tflops=peak,
        utilisation=peak and causal / peak,
        utilisation_of_full_attention=peak and full / peak,
        convention=FLOP_CONVENTION,
    )


def _of_phase(recipe: Recipe, setting: Setting, step_seconds: float, booked: int) -> Phase:
    """What all steps of the recipe, which are one phase of a run, and a million tokens take."""
    steps, tokens = recipe.train.steps, recipe.train.steps * setting.tokens
    seconds = steps * step_seconds
    costs = partial(cost, setting.cluster, gpus_in_use=setting.layout.world_size, gpus_booked=booked)
    return Phase(
        continues=recipe.checkpoint.start_from,
        steps=steps,
        tokens=tokens,
        seconds=seconds,
        days=seconds / 86_400,
        cost=costs(seconds=seconds),
        per_million_tokens=costs(seconds=seconds * _MILLION / tokens),
    )
