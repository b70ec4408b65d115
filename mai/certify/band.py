"""bf16: the layout may be as far from fp32 as one bf16 rank is, give or take a factor.

Rounding to 8 bits moves every number, differently in every layout, so that no element can be asked to agree. What can
be asked is that the layout rounds no worse than one rank does: the root mean square of each tensor's deviations.
"""

from collections.abc import Iterator

import numpy as np

from mai.certify import tolerance
from mai.certify.compare import Comparison, Finding, in_order, ranks_of, scalar_finding
from mai.certify.trial import NUM_STEPS, learning_rate
from mai.certify.values import Kind, Numbers, Piece, Recording
from mai.recipe import Recipe


def compare_bf16(fp32: Recording, one_rank: Recording, layout: Recording, recipe: Recipe) -> Comparison:
    """`fp32` is one rank's too."""
    findings = list(_scalars(fp32, one_rank, layout))
    for name in fp32.names:
        findings += _parameter(fp32, one_rank, layout, recipe, name)
    return in_order(findings, recipe)


def _scalars(fp32: Recording, one_rank: Recording, layout: Recording) -> Iterator[Finding]:
    for field, kind, share in (
        ("loss", "loss", tolerance.BF16_LOSS),
        ("norm", "gradient norm", tolerance.BF16_NORM),
    ):
        steps = range(1, NUM_STEPS + 1)
        expected = {step: fp32.scalars[step][0][field] for step in steps}
        # One number a step is a matter of luck: the band is that of all steps.
        band = _rms(np.array([one_rank.scalars[step][0][field] - expected[step] for step in steps]))
        for step in steps:
            found = [scalars[field] for scalars in layout.scalars[step]]
            allowed = tolerance.BAND * band + share * abs(expected[step])
            yield scalar_finding(step, kind, expected[step], found, allowed=allowed)


def _parameter(fp32: Recording, one_rank: Recording, layout: Recording, recipe: Recipe, name: str) -> Iterator[Finding]:
    moved = 0.0
    for step in range(1, NUM_STEPS + 1):
        if (step, "gradient", name) in fp32.pieces:
            expected = fp32.whole(step, "gradient", name)
            band = _rms(one_rank.whole(step, "gradient", name) - expected)
            allowed = tolerance.BAND * band + tolerance.BF16_GRADIENT * _rms(expected)
            yield _finding(layout, step, "gradient", name, expected, allowed)
        moved += learning_rate(recipe, step)
        expected = fp32.whole(step, "weight", name)
        band = _rms(one_rank.whole(step, "weight", name) - expected)
        allowed = tolerance.bf16_weight(band, moved=moved, num_elements=expected.size)
        yield _finding(layout, step, "weight", name, expected, allowed)


def _finding(layout: Recording, step: int, kind: Kind, name: str, expected: Numbers, allowed: float) -> Finding:
    held = [(rank, piece, values - piece.of(expected)) for rank, piece, values in layout.held(step, kind, name)]
    deviations = np.concatenate([deviation for _, _, deviation in held]) if held else np.array([np.nan])
    wrong: list[tuple[int, Piece]] = []
    right: list[tuple[int, Piece]] = []
    for rank, piece, deviation in held:
        (right if _rms(deviation) <= allowed else wrong).append((rank, piece))
    return Finding(
        step=step,
        kind=kind,
        name=name,
        difference=_rms(deviations),
        allowed=allowed,
        one_rank=_rms(expected),
        num_elements=deviations.size,
        num_missing=layout.num_missing(step, kind, name, shape=expected.shape),
        **ranks_of(wrong, right),
    )


def _rms(values: Numbers) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
