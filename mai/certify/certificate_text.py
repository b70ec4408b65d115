"""A certificate as people read it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mai.certify import tolerance
from mai.certify.certificate import Evidence
from mai.certify.compare import KINDS, Finding
from mai.recipe import Recipe
from mai.recipe.shrink import degrees

_MOST_NAMES = 5


def subject_lines(recipe: Recipe, shrunk: Recipe) -> Iterator[str]:
    """What is about to be tried."""
    cut = {name: pair for name, pair in degrees(recipe).items() if pair != (1, 1) and pair[1] is not None}
    words = [f"{name} {_shrunk('any' if was is None else was, now)}" for name, (was, now) in cut.items()]
    stages = _shrunk(recipe.parallel.stages, shrunk.parallel.stages)
    yield f"{recipe.name}: {', '.join([*words, f'stages {stages}'])}"


def _shrunk(was: object, now: object) -> str:
    return f"{was}" if was == now else f"{was} -> {now}"


def passed_lines(value: Mapping[str, Any]) -> Iterator[str]:
    """What was compared and how close it was, a line a kind; then what stays unproven."""
    for name, kinds in value["compared"].items():
        for kind in KINDS:
            found, worst = kinds[kind], kinds[kind]["worst"]
            where = f"{worst['name']}, " if worst["name"] else ""
            yield (
                f"  {name}  {kind:13} {found['numbers']:>11,} compared, at most {worst['difference']:.1e} where "
                f"{worst['allowed']:.1e} is allowed ({where}step {worst['step']})"
            )
    for said in dict.fromkeys(value["batches"]):
        steps = [step for step, batch in enumerate(value["batches"], start=1) if batch == said]
        yield f"  steps {steps[0]} to {steps[-1]}: {said}"
    if differed := value["wrong_in_first_draw"]:
        first = differed[0]
        yield (
            f"  with other tokens: with the first ones {len(differed)} numbers or tensors differed, from the "
            f"{first['kind']} of step {first['step']} on, as where a rounding sends a token to another expert"
        )
    yield "  unproven:"
    for sentence in value["unproven"]:
        yield f"    - {sentence}"


def wrong_lines(evidence: Evidence) -> list[str]:
    """What is wrong first, and in which parameter, most telling first."""
    assert evidence.wrong is not None
    name, findings = evidence.wrong
    first = findings[0]
    parameters = [finding for finding in findings if finding.name]
    lines = [f"{name}, step {first.step}: {_sentence(first, name)}"]
    if not first.name and parameters:
        lines.append(f"first parameter on the way forward: {_sentence(parameters[0], name)}")
    largest = max(parameters, key=lambda finding: finding.used, default=first)
    if largest not in (first, *parameters[:1]):
        lines.append(f"furthest off: {_sentence(largest, name)}")
    compared = [finding for finding in evidence.comparisons[name].findings if finding.step == first.step]
    for kind in ("gradient", "weight"):
        wrong = [finding.name for finding in findings if finding.kind == kind]
        if wrong:
            total = sum(finding.kind == kind for finding in compared)
            more = f" and {len(wrong) - _MOST_NAMES} more" if len(wrong) > _MOST_NAMES else ""
            lines.append(f"{len(wrong)} of {total} {kind}s are wrong: {', '.join(wrong[:_MOST_NAMES])}{more}")
    return lines


def _sentence(finding: Finding, name: str) -> str:
    kind = f"initial {finding.kind}" if finding.step == 0 else finding.kind
    what = f"the {kind} of {finding.name}" if finding.name else f"the {kind}"
    stated = tolerance.STATED[name][finding.kind]
    if finding.num_missing:
        return f"{what}: {finding.num_missing} elements are held by no rank"
    if math.isnan(finding.one_rank):
        return f"{what}: held by {_listed(finding.wrong_ranks)}, and one rank has no such parameter"
    return (
        f"{what} differs by {finding.difference:.3g} from {finding.one_rank:.3g} (allowed: {finding.allowed:.2g}; "
        f"{stated}); {_ranks(finding)}"
    )


def _ranks(finding: Finding) -> str:
    wrong = f"wrong on {_listed(finding.wrong_ranks)}"
    if finding.right_ranks:
        each = "holds the same numbers and is right" if len(finding.right_ranks) == 1 else "hold the same and are right"
        return f"{wrong}; {_listed(finding.right_ranks)} {each}"
    return wrong


def _listed(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
