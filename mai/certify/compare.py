"""One rank's numbers against those of the layout's ranks, tensor by tensor: every element on every rank that holds it.

Recording of one rank  --+
                         +--> one Finding for each (step, kind, parameter) --> Comparison
Recording of the layout -+
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mai.certify import tolerance
from mai.certify.trial import NUM_STEPS, learning_rate
from mai.certify.values import Kind, Numbers, Piece, Recording
from mai.model.shapes import parameters
from mai.recipe import Recipe

KINDS = ("loss", "gradient", "gradient norm", "weight")
"""What a finding may be of, in the order in which a step makes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """How far the layout was from one rank in one thing, at the place where most of the tolerance was used."""

    step: int
    """Counted from 1; 0 are the weights before the first."""
    kind: str
    name: str
    """The parameter's; empty for a loss and a norm."""
    difference: float
    allowed: float
    one_rank: float
    """One rank's number there; of a bf16 tensor the root mean square."""
    num_elements: int
    """Compared, replicas counted each."""
    wrong_ranks: tuple[int, ...] = ()
    right_ranks: tuple[int, ...] = ()
    """That hold some of the same elements, within tolerance."""
    num_missing: int = 0
    """Elements that no rank holds."""

    @property
    def used(self) -> float:
        """Share of the tolerance; what is missing, or not a number on either side, uses more than any tolerance."""
        if self.num_missing or not np.isfinite([self.difference, self.allowed]).all():
            return float("inf")
        if self.difference == 0:
            return 0.0
        return self.difference / self.allowed if self.allowed else float("inf")

    @property
    def is_wrong(self) -> bool:
        return self.used > 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """All findings, in the order in which training makes them: step, kind, parameter on the way forward."""

    findings: Sequence[Finding]

    @property
    def wrong(self) -> list[Finding]:
        """What is wrong in the first step in which anything is: all that comes later may follow from it."""
        first = next((finding.step for finding in self.findings if finding.is_wrong), None)
        return [finding for finding in self.findings if finding.step == first and finding.is_wrong]

    def worst(self, kind: str) -> Finding:
        return max((finding for finding in self.findings if finding.kind == kind), key=lambda finding: finding.used)


def compare(one_rank: Recording, layout: Recording, recipe: Recipe) -> Comparison:
    """fp32: every element by itself."""
    findings = [*_scalars(one_rank, layout), *_strangers(one_rank, layout)]
    for name in one_rank.names:
        findings += _Parameter(one_rank, layout, recipe, name).findings()
    return in_order(findings, recipe)


def in_order(findings: Sequence[Finding], recipe: Recipe) -> Comparison:
    forward = {parameter.name: place for place, parameter in enumerate(parameters(recipe.model))}
    # What shapes.py does not know, such as a part of the user's own, comes last, as it was written.
    key = [(f.step, KINDS.index(f.kind), forward.get(f.name, len(forward))) for f in findings]
    return Comparison([findings[place] for place in sorted(range(len(findings)), key=key.__getitem__)])


def _scalars(one_rank: Recording, layout: Recording) -> Iterator[Finding]:
    for step in range(1, NUM_STEPS + 1):
        for field, kind in (("loss", "loss"), ("norm", "gradient norm")):
            expected = one_rank.scalars[step][0][field]
            found = [scalars[field] for scalars in layout.scalars[step]]
            yield scalar_finding(step, kind, expected, found, allowed=tolerance.LOSS * abs(expected))


def scalar_finding(step: int, kind: str, expected: float, found: Sequence[float], *, allowed: float) -> Finding:
    differences = [abs(value - expected) for value in found]
    is_right = [difference <= allowed for difference in differences]
    return Finding(
        step=step,
        kind=kind,
        name="",
        difference=_largest(differences),
        allowed=allowed,
        one_rank=expected,
        num_elements=len(found),
        wrong_ranks=tuple(rank for rank, right in enumerate(is_right) if not right),
        right_ranks=tuple(rank for rank, right in enumerate(is_right) if right),
    )


def _strangers(one_rank: Recording, layout: Recording) -> Iterator[Finding]:
    """What the layout's ranks hold and one rank does not: parameters under a wrong name."""
    for name in layout.names:
        if name not in one_rank.names:
            held = [
                entry for (_, _, held_name), entries in layout.pieces.items() if held_name == name for entry in entries
            ]
            ranks = tuple(sorted({rank for rank, _ in held}))
            yield Finding(
                step=0,
                kind="weight",
                name=name,
                difference=float("nan"),
                allowed=0.0,
                one_rank=float("nan"),
                num_elements=sum(piece.stop - piece.start for _, piece in held),
                wrong_ranks=ranks,
            )


class _Parameter:
    """One parameter through all steps."""

    def __init__(self, one_rank: Recording, layout: Recording, recipe: Recipe, name: str) -> None:
        self._one_rank, self._layout, self._recipe, self._name = one_rank, layout, recipe, name

    def findings(self) -> Iterator[Finding]:
        allowance = tolerance.WeightAllowance(self._recipe.optimizer)
        initial = self._one_rank.whole(0, "weight", self._name)
        yield self._finding(0, "weight", initial, allowance.of(initial))
        for step in range(1, NUM_STEPS + 1):
            # A router's selection bias moves by counts of tokens: it has no gradient, and no tolerance to gain by one.
            if (step, "gradient", self._name) in self._one_rank.pieces:
                yield self._gradient(step, allowance)
            weight = self._one_rank.whole(step, "weight", self._name)
            yield self._finding(step, "weight", weight, allowance.of(weight))

    def _gradient(self, step: int, allowance: tolerance.WeightAllowance) -> Finding:
        norm = self._one_rank.scalars[step][0]["norm"]
        gradient = self._one_rank.whole(step, "gradient", self._name)
        allowed = tolerance.gradient(gradient, norm=norm, num_elements=num_elements(self._one_rank))
        allowance.after(
            step,
            self._one_rank.whole(step, "state", self._name),
            gradient=allowed,
            norm=norm,
            learning_rate=learning_rate(self._recipe, step),
        )
        return self._finding(step, "gradient", gradient, np.broadcast_to(allowed, gradient.shape))

    def _finding(self, step: int, kind: Kind, expected: Numbers, allowed: NDArray[np.float64]) -> Finding:
        held = list(self._layout.held(step, kind, self._name))
        worst, worst_used = (float("nan"), float("nan"), float("nan")), -1.0
        wrong: list[tuple[int, Piece]] = []
        right: list[tuple[int, Piece]] = []
        for rank, piece, values in held:
            differences, may = np.abs(values.astype(np.float64) - piece.of(expected)), piece.of(allowed)
            used = np.divide(differences, may, out=np.zeros_like(differences), where=differences != 0)
            # Two numbers that are not finite are not equal either.
            used[~np.isfinite(differences)] = np.inf
            place = int(np.argmax(used))
            (right if used[place] <= 1 else wrong).append((rank, piece))
            if used[place] > worst_used:
                worst_used = float(used[place])
                worst = float(differences[place]), float(may[place]), float(piece.of(expected)[place])
        return Finding(
            step=step,
            kind=kind,
            name=self._name,
            difference=worst[0],
            allowed=worst[1],
            one_rank=worst[2],
            num_elements=sum(values.size for _, _, values in held),
            num_missing=self._layout.num_missing(step, kind, self._name, shape=expected.shape),
            **ranks_of(wrong, right),
        )


def ranks_of(wrong: Sequence[tuple[int, Piece]], right: Sequence[tuple[int, Piece]]) -> dict[str, tuple[int, ...]]:
    """The ranks with wrong numbers, and those that hold the same elements right."""
    wrong_ranks = {rank for rank, _ in wrong}
    replicas = {rank for rank, piece in right if any(piece.overlaps(other) for _, other in wrong)}
    return {"wrong_ranks": tuple(sorted(wrong_ranks)), "right_ranks": tuple(sorted(replicas - wrong_ranks))}


def num_elements(recording: Recording) -> int:
    """How many elements the whole model has."""
    return sum(
        int(np.prod(pieces[0][1].global_shape))
        for (step, kind, _), pieces in recording.pieces.items()
        if (step, kind) == (0, "weight")
    )


def _largest(values: Sequence[float]) -> float:
    """NaN if any is."""
    return float(np.max(values))
