"""A plan's four pictures: memory by stage, the pipeline's timeline, time by item, tokens per second against GPUs."""

from collections.abc import Iterator, Sequence

from mai.parallel.layout import Layout
from mai.plan.memory.memory import Memory
from mai.plan.quantities import amount, gib, is_nothing, percent, seconds
from mai.plan.report.plan_values import Gpus
from mai.plan.report.scaling import Point, Scaling
from mai.plan.telling.drawing import Scale, bars, curve, dot, legend, line, rectangle, ring, svg, words
from mai.plan.telling.item_words import MEMORY_ITEMS, WORDS
from mai.plan.time.step_time import StageTime, StepTime
from mai.plan.time.timeline import Span, timeline
from mai.recipe.pipeline_schedule import turns_of_stages

_WIDTH = 960
_LEFT, _RIGHT, _TOP = 80, 20, 16
_MOST_TURNS = 4000
"""That a timeline shows; more would be a page of megabytes, and too narrow to see."""


def memory_picture(memory: Memory) -> str:
    """A bar a stage, its items stacked, beside what the GPU gives."""
    stages, most = memory.stages, memory.most_bytes
    of_gpu = "sold with" if memory.usable_bytes is None else "usable"
    bars = [{**stage.items_bytes, "outside the allocator": stage.outside_bytes} for stage in stages]
    items = sorted({item for bar in bars for item, size in bar.items() if size}, key=MEMORY_ITEMS.index)
    row, gap = 16, 6
    height = _TOP + len(bars) * (row + gap)
    scale = Scale(max(most, *(stage.needed_bytes for stage in stages)) * 1.02, _LEFT, _WIDTH - _RIGHT)

    def shapes() -> Iterator[str]:
        for number, (stage, bar) in enumerate(zip(stages, bars, strict=True)):
            y = _TOP + number * (row + gap)
            yield words(_LEFT - 8, y + row - 4, f"stage {stage.stage}", anchor="end")
            begin = 0
            for item in items:
                size = bar.get(item, 0)
                wide = scale.at(size) - scale.start
                told = f"stage {stage.stage}: {item} {gib(size)} GiB"
                yield rectangle(scale.at(begin), y, wide, row, style=_colour(item), title=told)
                begin += size
        yield line(scale.at(most), _TOP - 6, scale.at(most), height, style="limit")
        yield words(scale.at(most) - 4, _TOP - 5, f"{of_gpu}: {gib(most)} GiB", anchor="end")

    names = [(_colour(item), item) for item in items]
    return legend(names) + svg(_WIDTH, height, shapes(), title="Memory of a rank of each stage")


def drawn_micro_batches(layout: Layout, micro_batches: int) -> int:
    """How many the timeline shows: all, or where they are many as many whole rounds of the pipeline as are legible."""
    stages = layout.pipeline
    turns = 2 * stages * layout.virtual_stages
    rounds = max(1, _MOST_TURNS // (turns * stages))
    return min(micro_batches, rounds * stages)


def timeline_picture(layout: Layout, micro_batches: int, stages: Sequence[StageTime]) -> str:
    """A row a stage; what is empty is the bubble. `stages` has the seconds of a micro-batch on each."""
    spans = _spans(layout, micro_batches, stages)
    row = 18 if len(spans) <= 32 else 8
    height = _TOP + len(spans) * row + 22
    scale = Scale(max(stage[-1].end_seconds for stage in spans), _LEFT, _WIDTH - _RIGHT)

    def shapes() -> Iterator[str]:
        for stage, turns in enumerate(spans):
            y = _TOP + stage * row
            yield rectangle(scale.start, y, scale.end - scale.start, row - 2, style="bubble")
            yield words(_LEFT - 8, y + row - 5, f"stage {stage}", anchor="end")
            for span in turns:
                yield from _turn(span, scale, y, row - 2)
        for tick in scale.ticks():
            yield words(scale.at(tick), height - 4, f"{tick:.4g} s", anchor="middle")

    kinds = [("forward0", "forward"), ("backward0", "backward")]
    if layout.schedule.is_interleaved:
        kinds = [
            (f"{way}{odd}", f"{way}, {'odd' if odd else 'even'} virtual stages")
            for way in ("forward", "backward")
            for odd in (0, 1)
        ]
    return legend([*kinds, ("bubble", "bubble")]) + svg(_WIDTH, height, shapes(), title="The pipeline's timeline")


def _spans(layout: Layout, micro_batches: int, stages: Sequence[StageTime]) -> tuple[tuple[Span, ...], ...]:
    """As if all virtual stages of a stage took equally long."""
    number, turns = layout.virtual_stages, turns_of_stages(layout.schedule, drawn_micro_batches(layout, micro_batches))
    return timeline(turns, [(one.forward_seconds / number, one.backward_seconds / number) for one in stages])


def _turn(span: Span, scale: Scale, y: float, height: float) -> Iterator[str]:
    turn, x = span.turn, scale.at(span.start_seconds)
    wide = scale.at(span.end_seconds) - x
    yield rectangle(x, y, wide, height, style=f"{turn.direction}{turn.virtual_stage % 2}")
    if wide > 14 and height > 10:
        yield words(x + wide / 2, y + height - 4, str(turn.micro_batch), anchor="middle")


def time_picture(step: StepTime) -> str:
    """A bar an item, the longest first."""
    whole, items_seconds = step.seconds, step.items_seconds
    shown = {WORDS[item]: took for item, took in items_seconds.items() if not is_nothing(took, like=whole)}

    def told(took: float) -> str:
        return f"{seconds(took, like=whole)}, {percent(took / whole)}"

    return bars(shown, told=told, style="time", title="Time of a step by item")


def scaling_picture(scaling: Scaling, gpus: Gpus, tokens_per_second: float) -> str:
    """Both lines from 0, so that what is lost shows as a bend; and where the plan and its budget stand."""
    in_use, budget = gpus.in_use, gpus.booked
    lines: Sequence[tuple[str, str, Sequence[Point]]] = (
        ("line1", "the batch grows with the GPUs", scaling.same_share),
        ("line0", "the batch of the recipe", scaling.same_batch),
    )
    points = [point for *_, line_points in lines for point in line_points]
    bottom, top = 300, 2 * _TOP
    across = Scale(max(budget, *(point.gpus for point in points)) * 1.02, _LEFT + 40, _WIDTH - _RIGHT)
    up = Scale(max(point.tokens_per_second for point in points) * 1.05, bottom, top)

    def shapes() -> Iterator[str]:
        for tick in up.ticks():
            yield line(across.start, up.at(tick), across.end, up.at(tick), style="grid")
            yield words(across.start - 8, up.at(tick) + 4, amount(tick, ""), anchor="end")
        yield words(across.start - 8, 12, "tokens a second", anchor="end")
        yield words(across.end, bottom + 34, "GPUs", anchor="end")
        for tick in across.ticks():
            yield words(across.at(tick), bottom + 18, f"{tick:,.0f}", anchor="middle")
        for style, name, of_line in lines:
            places = [(across.at(point.gpus), up.at(point.tokens_per_second)) for point in of_line]
            yield curve(places, style=style)
            for point, (x, y) in zip(of_line, places, strict=True):
                told = f"{point.gpus:,} GPUs: {amount(point.tokens_per_second, 'tokens')} a second, {name}"
                yield dot(x, y, style=style, title=told)
        yield line(across.at(budget), top, across.at(budget), bottom, style="limit")
        yield words(across.at(budget) - 4, 12, f"budget: {budget:,}", anchor="end")
        told = f"this plan: {in_use:,} GPUs, {amount(tokens_per_second, 'tokens')} a second"
        yield ring(across.at(in_use), up.at(tokens_per_second), style="plan", title=told)
        yield words(across.at(in_use) - 10, up.at(tokens_per_second) - 8, "this plan", anchor="end")

    names = [(style, name) for style, name, _ in lines]
    return legend(names) + svg(_WIDTH, bottom + 40, shapes(), title="Tokens per second against GPUs")


def _colour(item: str) -> str:
    return f"item{MEMORY_ITEMS.index(item)}"
