"""A plan's report as one page that needs nothing else: no network, no script; light, dark and on paper."""

from collections.abc import Iterable
from datetime import date
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template

from mai.plan.goodput.goodput_values import Goodput
from mai.plan.memory.memory import Memory
from mai.plan.placement.map_and_traffic import Traffic
from mai.plan.placement.rank_map import RankMap
from mai.plan.proof.of_schedule import ScheduleProof
from mai.plan.quantities import percent, seconds
from mai.plan.report.plan_values import Plan
from mai.plan.report.scaling import Scaling
from mai.plan.telling import goodput_lines, pictures, placement_lines, plan_lines, proof_lines, scheduler_lines, what_if
from mai.plan.telling.rank_picture import rank_picture

TEMPLATE = Path(__file__).parent / "plan_page.html"


def page(found: Plan, scaling: Scaling, *, command: str, day: date) -> str:
    """The whole of it, as HTML, with what made it and when at its end."""
    step, speed, price = found.step, found.speed, found.cluster.price
    pace = f"{speed.tokens_per_second:,.0f} tokens a second, {speed.tokens_per_second_per_gpu:,.0f} on each GPU"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{found.recipe} on {found.cluster.name}"),
        heading=_paragraphs(
            f"{plan_lines.gpus(found)}: {plan_lines.axes(found)}",
            plan_lines.micro_batches(found),
            f"software {found.software.name}, {found.precision}",
            *([] if found.imbalance is None else [f"experts: {plan_lines.imbalance(found)}"]),
            *(f"spares: {line}" for line in plan_lines.idle_copies(found)),
        ),
        memory=_fit(found.memory) + pictures.memory_picture(found.memory) + _mends(found),
        timeline=_paragraphs(_shown(found))
        + pictures.timeline_picture(found.layout, found.micro_batches, step.time.stages),
        time=_paragraphs(
            f"{seconds(step.time.seconds)}; {plan_lines.trust(step)}",
            pace,
            f"utilisation {plan_lines.utilisation(found)}",
        )
        + pictures.time_picture(step.time),
        scaling=_paragraphs(
            "With more data ranks and fewer. A batch that stays as it is ends where it has too few micro-batches.",
        )
        + pictures.scaling_picture(scaling, found.gpus, speed.tokens_per_second),
        goodput="" if found.goodput is None else _goodput(found.goodput),
        placement="" if found.map is None or found.traffic is None else _placement(found.map, found.traffic),
        schedule="" if found.schedule is None else _schedule(found.schedule),
        scheduler=_sentences(scheduler_lines.sentences(found.scheduler, currency=price.currency if price else None)),
        costs=_table(plan_lines.cost_heads(found), plan_lines.costs(found)) + _paragraphs(*plan_lines.notes(found)),
        footer=_paragraphs(
            command, f"mai {_version()}, {day.isoformat()}", f"fingerprint of the recipe: {found.fingerprint}"
        ),
    )


def _fit(memory: Memory) -> str:
    style = "" if memory.fits else ' class="misfit"'
    return f"<p{style}>{escape(plan_lines.fit(memory))}</p>"


def _mends(found: Plan) -> str:
    if found.memory.fits:
        return ""
    table = _table(plan_lines.MEND_HEADS, plan_lines.mends(found)) if found.mends else ""
    return table + _paragraphs(*plan_lines.no_mend(found))


def _goodput(found: Goodput) -> str:
    """A section of its own, where failures were asked for."""
    levers = "".join(map(what_if.lever_picture, found.levers))
    inner = [
        _sentences(goodput_lines.sentences(found)),
        what_if.lost_picture(found),
        _table(what_if.MOVE_HEADS, what_if.moves(found)),
        f'<div class="pairs">{levers}</div>',
    ]
    return f"<section><h2>What failures leave</h2>{''.join(inner)}</section>"


def _placement(ranks: RankMap, traffic: Traffic) -> str:
    """A section of its own, where it was asked for."""
    heads, *rows = placement_lines.traffic_rows(traffic)
    inner = rank_picture(ranks) + _table(heads, rows) + _paragraphs(*placement_lines.notes(traffic))
    return f"<section><h2>Where ranks lie, and what they send</h2>{inner}</section>"


def _schedule(found: ScheduleProof) -> str:
    """A section of its own, where the proof was asked for."""
    told = "\n".join(proof_lines.lines(found))
    return f"<section><h2>What ranks call</h2><pre>{escape(told)}</pre></section>"


def _shown(found: Plan) -> str:
    shown, number = pictures.drawn_micro_batches(found.layout, found.micro_batches), found.micro_batches
    if shown == number:
        return "Every micro-batch; transfers between stages are not drawn."
    step = found.step.time
    bubble = step.items_seconds.get("bubble", 0.0)
    return (
        f"A step of {shown} of the {number} micro-batches. Its bubble is as long as that of the whole step, of which "
        f"it is {percent(bubble / step.seconds)}, {seconds(bubble, like=step.seconds)}."
    )


def _version() -> str:
    try:
        return version("mai")
    except PackageNotFoundError:
        return "that is not installed"


def _sentences(told: Iterable[tuple[str, str]]) -> str:
    """Each behind what it is of."""
    return _paragraphs(*(f"{head}: {sentence}" if head else sentence for head, sentence in told))


def _paragraphs(*lines: str) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
