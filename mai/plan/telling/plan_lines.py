"""A plan's report as lines for a terminal."""

from collections.abc import Iterator, Sequence

from mai.plan.memory.memory import Memory, RankMemory
from mai.plan.quantities import amount, counted, disk_size, duration, gib, is_nothing, percent, seconds
from mai.plan.report.plan_values import ClusterReport, Phase, Plan, Step, WholeRun
from mai.plan.telling import goodput_lines, placement_lines, proof_lines, scheduler_lines
from mai.plan.telling.item_words import WORDS
from mai.plan.telling.typesetting import columns, wrapped

_MOST_STAGES = 4
"""Beyond them the first, the last and the largest stand for all; JSON and the page have every one."""


def lines(found: Plan) -> Iterator[str]:
    """What it is of, memory, time, speed, what it costs, what its scheduler needs to know, and what else was asked."""
    yield from _heading(found)
    yield ""
    yield from _memory(found.memory)
    yield from _mends(found)
    yield ""
    yield from _step(found.step)
    yield ""
    yield from _speed(found)
    yield ""
    yield from _phase(found)
    yield ""
    price = found.cluster.price
    yield from scheduler_lines.lines(found.scheduler, currency=price.currency if price else None)
    for block in _asked_for(found):
        yield ""
        yield from block


def _asked_for(found: Plan) -> Iterator[Iterator[str]]:
    """The blocks that a plan has only where somebody asked."""
    if found.goodput is not None:
        yield goodput_lines.lines(found.goodput)
    if found.map is not None:
        yield placement_lines.map_lines(found.map)
    if found.traffic is not None:
        yield placement_lines.traffic_lines(found.traffic)
    if found.schedule is not None:
        yield proof_lines.lines(found.schedule)


def axes(found: Plan) -> str:
    """The layout in one line."""
    degrees = " x ".join(f"{axis.replace('_', ' ')} {degree}" for axis, degree in found.layout.degrees.items())
    sharding = ", full sharding" if found.sharding == "full" else ""
    again = ", ".join(module.replace("_", " ") for module in found.recompute)
    return f"{degrees}{sharding}" + (f"; computed again: {again}" if again else "")


def micro_batches(found: Plan) -> str:
    sequences = found.micro_batch_sequences
    of = "a sequence" if sequences == 1 else f"{sequences} sequences"
    number = found.micro_batches
    return f"{number} micro-batch{'es' if number > 1 else ''} of {of} of {found.sequence_length:,} tokens on each copy"


def gpus(found: Plan) -> str:
    count = found.gpus
    spares = f" of {count.booked:,}, {count.spares:,} spares" if count.spares else ""
    return f"{counted(count.in_use, 'GPU')}{spares}"


def _heading(found: Plan) -> Iterator[str]:
    yield f"{found.recipe} on {found.cluster.name}: {gpus(found)}"
    yield f"layout       {axes(found)}"
    yield f"one step     {micro_batches(found)}"
    yield f"software     {found.software.name}, {found.precision}"
    if found.imbalance is not None:
        yield f"experts      {imbalance(found)}"
    yield from (f"spares       {line}" for line in idle_copies(found))


def idle_copies(found: Plan) -> Iterator[str]:
    """Where the budget has room for more copies of the model than the recipe names."""
    data, most = found.layout.data, found.gpus.most_data
    if most > data:
        yield f"parallel.data=none uses them: {most:,} data ranks instead of {data:,}"


def imbalance(found: Plan) -> str:
    """How evenly the router spreads the tokens, for a model with experts."""
    if found.layout.expert == 1:
        return "every rank has all of them, and computes its own tokens"
    if found.imbalance == 1:
        return "every rank gets as many tokens, which no router does: --imbalance states a worst case"
    return f"the busiest rank gets {found.imbalance:g} times the mean"


def _memory(memory: Memory) -> Iterator[str]:
    """A column a stage."""
    stages = shown_stages(memory)
    items = list(dict.fromkeys(item for stage in stages for item, size in stage.items_bytes.items() if size))
    number = len(memory.stages)
    of = f" ({number} stages)" if number > len(stages) else ""
    yield from columns(
        (f"memory of a rank, GiB{of}", *(f"stage {stage.stage}" for stage in stages)),
        *((item.replace("_", " "), *(gib(stage.items_bytes.get(item, 0)) for stage in stages)) for item in items),
        ("outside the allocator", *(gib(stage.outside_bytes) for stage in stages)),
        ("all", *(gib(stage.needed_bytes) for stage in stages)),
        ("of the host, during a save", *(gib(stage.host_during_save_bytes) for stage in stages)),
    )
    yield from wrapped(fit(memory))


def shown_stages(memory: Memory) -> Sequence[RankMemory]:
    """All, or where there are many the first, the largest and the last."""
    stages = memory.stages
    if len(stages) <= _MOST_STAGES:
        return stages
    return [stages[number] for number in sorted({0, memory.largest_stage, len(stages) - 1})]


def fit(memory: Memory) -> str:
    """Whether the largest rank fits, in a sentence."""
    largest, most = memory.largest, memory.most_bytes
    needs = f"the largest rank, of stage {largest.stage}, needs {gib(largest.needed_bytes)}"
    is_known = memory.usable_bytes is not None
    if memory.fits:
        unknown = " that the GPU is sold with; how much of them a process gets is unknown"
        return f"fits: {needs} of {gib(most)} GiB" if is_known else f"may fit: {needs} of {gib(most)} GiB{unknown}"
    there_are = "there are" if is_known else "that the GPU is sold with"
    more = f"{gib(memory.missing_bytes)} more than the {gib(most)} GiB {there_are}"
    number, misfits = len(memory.stages), sum(stage.needed_bytes > most for stage in memory.stages)
    of_stages = f"; {misfits} of {number} stages need too much" if number > 1 else ""
    return f"DOES NOT FIT: {needs} GiB, {more}{of_stages}"


def _mends(found: Plan) -> Iterator[str]:
    """What would help where it does not fit: the cheapest first, and where nothing alone is enough what helps most."""
    if found.memory.fits:
        return
    yield ""
    if found.mends:
        yield from columns(MEND_HEADS, *mends(found))
    yield from no_mend(found)


MEND_HEADS = "what would help, in place of words of the same path", "frees, GiB", "fits", "time of a step"


def no_mend(found: Plan) -> Iterator[str]:
    """Where no change of one thing is enough."""
    if not found.mends:
        yield "no single change of the layout on these GPUs frees memory; --search ranks other layouts"
    elif not any(mend.fits for mend in found.mends):
        yield "none of these frees enough; --search ranks other layouts"


def mends(found: Plan) -> Iterator[tuple[str, str, str, str]]:
    """The words to add, what they free on the largest rank, whether that is enough, and what it costs."""
    enough = "may" if found.memory.usable_bytes is None else "yes"
    for mend in found.mends:
        fits = enough if mend.fits else "no"
        yield " ".join(mend.overrides), gib(mend.freed_bytes), fits, f"x {mend.slowdown:.3f}"


def _step(step: Step) -> Iterator[str]:
    whole = step.time.seconds
    items = {item: took for item, took in step.time.items_seconds.items() if not is_nothing(took, like=whole)}
    yield from columns(
        ("time of a step", seconds(whole), ""),
        *((WORDS[item], seconds(took, like=whole), percent(took / whole)) for item, took in items.items()),
    )
    yield from wrapped(trust(step))


def trust(step: Step) -> str:
    """How far the time can be believed, in a sentence."""
    measured = step.measured
    if measured is None:
        return f"error: not measured for {step.kind}"
    low, high = measured.between_seconds
    return (
        f"error: {seconds(low)} to {seconds(high)}, as eight of ten of {measured.band.rows} measured runs lay around "
        f"their prediction ({measured.band.of})"
    )


def _speed(found: Plan) -> Iterator[str]:
    speed = found.speed
    yield (
        f"tokens       {speed.tokens_per_second:,.0f} a second, "
        f"{speed.tokens_per_second_per_gpu:,.0f} on each GPU in use"
    )
    yield f"utilisation  {utilisation(found)}"


def utilisation(found: Plan) -> str:
    """Both ways to count attention, as published figures differ by it."""
    speed, precision = found.speed, found.precision
    rate = f"{speed.model_tflops_per_gpu:.0f} TFLOP/s on a GPU"
    if speed.peak_tflops is None:
        return f"unknown: {rate}, and its peak in {precision} is not stated"
    return (
        f"{percent(speed.utilisation)}: {rate} of {speed.peak_tflops:,.0f} in {precision}, causal attention; "
        f"{percent(speed.utilisation_of_full_attention)} by the count of full attention"
    )


def _phase(found: Plan) -> Iterator[str]:
    phase = found.phase
    goes_on = f", after {phase.continues}" if phase.continues else ""
    yield f"{phase.steps:,} steps of {amount(phase.tokens / phase.steps, 'tokens')}{goes_on}"
    if found.run is not None:
        yield f"the whole run: {', then '.join(found.run.phases)}"
    yield from columns(cost_heads(found), *costs(found))
    for note in notes(found):
        yield from wrapped(note, indent="  ")


def cost_heads(found: Plan) -> tuple[str, ...]:
    """Above what `costs` gives."""
    return ("", "this phase", *(("whole run",) if found.run is not None else ()), "per million tokens")


def costs(found: Plan) -> Iterator[tuple[str, ...]]:
    """Name, of the whole phase, of all phases where there are several, of a million tokens."""
    phase, price, disk = found.phase, found.cluster.price, found.disk
    wholes: list[Phase | WholeRun] = [phase] if found.run is None else [phase, found.run]
    every = [*(whole.cost for whole in wholes), phase.per_million_tokens]
    yield "tokens", *(amount(of.tokens, "tokens") for of in wholes), ""
    yield "time", *(duration(of.seconds) for of in wholes), ""
    yield "GPU hours", *(amount(each.gpu_hours, "h") for each in every)
    yield "money", *(amount(each.money, price.currency if price else "") for each in every)
    yield "energy", *(amount(each.energy_kilowatt_hours, "kWh") for each in every)
    yield "carbon dioxide", *(amount(each.carbon_kilograms, "kg") for each in every)
    for name, num_bytes in (
        ("a checkpoint", disk.checkpoint_bytes),
        ("all checkpoints", disk.checkpoints_bytes),
        ("token shards", disk.data_bytes),
    ):
        yield name, disk_size(num_bytes), *("" for _ in cost_heads(found)[2:])


def notes(found: Plan) -> Iterator[str]:
    """What the costs count, and what they follow from."""
    cluster = found.cluster
    price, site, sources = cluster.price, cluster.site, cluster.sources
    yield "time: without failures, saves and evaluation; GPU hours: of spare ones too"
    yield "all checkpoints: those that are kept, and the one being written; token shards: no token read twice"
    if price and price.gpu_hour is not None:
        yield f"price: {price.gpu_hour:g} {price.currency} an hour buys {price.gpu_hour_buys}"
        yield f"price's source: {sources.get('price.gpu_hour', cluster.name + '.toml')}"
    else:
        yield f"price: {cluster.name} states none; --price does"
    if price and price.kilowatt_hour is not None:
        where = "in no sum, as the money is unknown" if found.phase.cost.money is None else "in the money above"
        yield f"electricity: {price.kilowatt_hour:g} {price.currency} a kWh, {where}"
    yield from _energy(cluster)
    grams = site.carbon_grams_per_kilowatt_hour
    yield "carbon: the site states none; --carbon does" if grams is None else f"carbon: {grams:g} g for each kWh"


def _energy(cluster: ClusterReport) -> Iterator[str]:
    watts, usage = cluster.gpu_watts, cluster.site.power_usage_effectiveness
    if watts is None:
        yield f"energy: the power of a node of {cluster.gpu} is not known"
        return
    of = "without the building's own" if usage is None else f"with the building's own, {usage:g} times in all"
    yield f"energy: {watts:,.0f} W for a GPU and its share of the node, {of}"
    yield f"power's source: {cluster.gpu_watts_source}"
