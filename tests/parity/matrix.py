"""The parity matrix: which model shapes are trained in which layouts, and how far each is from one rank.

    make parity        runs all of it and writes docs/parity.md

All layouts of one size share their processes, one after the other. Where two experts score almost alike, rounding
decides where a token goes, and each layout rounds in its own way: a layout of a model with experts that is beyond the
tolerance runs again with the routing of one rank.
"""

import datetime as dt
import importlib.metadata
import itertools
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mai.certify import tolerance
from mai.recipe import ModelConfig, ParallelConfig, Recipe
from recipes.debug.every_axis import dense_every_axis, experts_every_axis, latent_every_axis
from recipes.debug.tiny import tiny
from tests.corpus import changed
from tests.parity.steps import LayoutSteps, Picks, layouts, one_rank
from tests.parity.trainer import BATCH_SEQUENCES, STEPS, name_of, num_ranks

TOLERANCE = 1e-5
LEAST_AGREED_STEPS = 2


SHAPES = {
    "dense": dense_every_axis().model,
    "experts": experts_every_axis().model,
    "latent": latent_every_axis().model,
}


@dataclass(frozen=True, eq=False)
class Layout:
    """One line of the matrix: what differs from one rank, for all shapes and for those with experts."""

    axes: dict[str, Any]
    experts: dict[str, Any] = field(default_factory=dict)
    every_commit: bool = False
    """Also in `make test`; the others wait for `make test-full`."""

    def parallel(self, model: ModelConfig) -> ParallelConfig:
        axes = {"data": 1, "micro_batch_sequences": 4, **self.axes, **(self.experts if model.experts else {})}
        if model.experts and axes.get("tensor", 1) > 1:
            axes["sequence"] = True
        return ParallelConfig(**axes)


def _of(*, experts: dict[str, Any] | None = None, every_commit: bool = False, **axes: Any) -> Layout:
    return Layout(axes, experts or {}, every_commit)


ONE_RANK = _of()
LAYOUTS = [
    # one axis at a time
    _of(data=2, experts={"expert": 2}, every_commit=True),
    _of(tensor=2, experts={"expert_tensor": 2}),
    _of(tensor=4, sequence=True, experts={"expert": 4}),
    _of(context=2, experts={"expert": 2}),
    _of(pipeline=2),
    _of(pipeline=4),
    _of(pipeline=2, virtual_stages=2, every_commit=True),
    _of(pipeline=3, stages="balanced"),
    _of(pipeline=2, stages="Et|tttL"),
    _of(data=2, sharding="full", every_commit=True),
    _of(data=4, sharding_ranks=2, experts={"expert": 2}),
    _of(data=4, sharding="full", sharding_ranks=2),
    _of(data=2, recompute=("layer",), experts={"expert": 2}, every_commit=True),
    _of(data=2, sharding_ranks=1, experts={"expert_tensor": 2, "sharding_ranks": None}),
    # two and three at a time
    _of(
        tensor=2, sequence=True, recompute=("attention_core", "norms", "feed_forward"),
        experts={"recompute": ("attention_core", "norms", "experts")}, every_commit=True,
    ),
    _of(tensor=2, sequence=True, context=2, experts={"expert": 2, "expert_tensor": 2}, every_commit=True),
    _of(tensor=2, sequence=True, pipeline=2, experts={"expert": 2}),
    _of(
        tensor=2, sequence=True, data=2, sharding="full", recompute=("layer",),
        experts={"expert": 2, "expert_tensor": 2},
    ),
    _of(tensor=2, sequence=True, pipeline=2, stages="Et|tttL", recompute=("layer",), experts={"expert_tensor": 2}),
    _of(context=2, pipeline=2, stages="balanced", experts={"expert": 2}),
    _of(context=2, data=2, sharding="full", experts={"expert_tensor": 2}),
    _of(context=2, data=2, sharding_ranks=2, recompute=("layer",), experts={"expert": 2}),
    _of(pipeline=2, data=2, sharding="full", experts={"expert": 2}),
    _of(pipeline=2, virtual_stages=2, data=2, recompute=("layer",), experts={"expert": 2}),
    _of(
        pipeline=2, virtual_stages=2, stages="Ett|t|t|L", data=2,
        sharding="full", recompute=("attention_core",), experts={"expert": 2},
    ),
    # all together, on eight ranks and on sixteen
    _of(tensor=2, sequence=True, pipeline=2, virtual_stages=2, data=2, experts={"expert": 2}, every_commit=True),
    _of(tensor=2, sequence=True, context=2, data=2, sharding_ranks=2, experts={"expert": 4}),
    _of(tensor=2, sequence=True, context=2, pipeline=2, virtual_stages=2, experts={"expert": 2, "expert_tensor": 2}),
    _of(
        context=2, pipeline=2, virtual_stages=2, data=2,
        stages="E|tt|t|tL", sharding_ranks=2, recompute=("attention_core", "norms"), experts={"expert": 2},
        every_commit=True,
    ),
    _of(
        tensor=2, sequence=True, context=2, pipeline=2, virtual_stages=2, data=2,
        stages="E|tt|t|tL", sharding_ranks=2, recompute=("norms",), experts={"expert": 2, "expert_tensor": 2},
    ),
]  # fmt: skip


def recipe_of(shape: str, layout: Layout) -> Recipe:
    """`tiny` with this shape of model, in this layout."""
    model = SHAPES[shape]
    recipe = replace(tiny(), name=shape, model=model, parallel=layout.parallel(model))
    return changed(recipe, train={"steps": STEPS, "batch_tokens": BATCH_SEQUENCES * recipe.data.sequence_length})


@dataclass(frozen=True)
class Cell:
    """One shape in one layout, beside one rank."""

    shape: str
    layout: Layout
    loss: float
    """Largest relative difference of any step's loss, and of the held-out loss."""
    norm: float
    """Of any step's gradient norm."""
    gradient: float
    """Of any element of the first step's gradients, relative to its parameter's largest, as certificates have it."""
    agreed_steps: int
    """How many steps from the first on were within the tolerance, without replay."""
    before_replay: tuple[float, float] | None = None
    """Loss and norm of the first time, where the layout ran again with the routing of one rank."""

    @property
    def passes(self) -> bool:
        """A router that chooses wrongly is wrong from the first step on, and a replay would hide it."""
        return self.is_near and self.agreed_steps >= LEAST_AGREED_STEPS

    @property
    def is_near(self) -> bool:
        return self.loss <= TOLERANCE and self.norm <= TOLERANCE and self.gradient <= tolerance.GRADIENT


def cells(shapes: Iterable[str], some: Iterable[Layout]) -> Iterator[Cell]:
    """Train each shape in each layout and compare; all layouts of one size in one set of processes."""
    chosen = list(some)
    for shape in shapes:
        alone = one_rank(recipe_of(shape, ONE_RANK), is_synthetic=True)
        first = _trained(shape, chosen, replay=None)
        found = [_cell(shape, layout, steps, alone) for layout, steps in first.items()]
        has_experts = SHAPES[shape].experts is not None
        again = [cell.layout for cell in found if not cell.is_near and has_experts]
        replayed = _trained(shape, again, replay=alone.ranks[0].routing)
        for first_cell in found:
            if first_cell.layout not in replayed:
                yield first_cell
                continue
            second = _cell(shape, first_cell.layout, replayed[first_cell.layout], alone)
            before = (first_cell.loss, first_cell.norm)
            yield replace(second, agreed_steps=first_cell.agreed_steps, before_replay=before)


def _trained(shape: str, chosen: list[Layout], *, replay: Sequence[Picks] | None) -> dict[Layout, LayoutSteps]:
    parallels = {layout: layout.parallel(SHAPES[shape]) for layout in chosen}
    found = layouts(recipe_of(shape, ONE_RANK), list(parallels.values()), replay=replay, is_synthetic=True)
    return {layout: found[name_of(parallel)] for layout, parallel in parallels.items()}


def _cell(shape: str, layout: Layout, ours: LayoutSteps, theirs: LayoutSteps) -> Cell:
    """The last pair of a curve is the held-out loss with its number of tokens."""
    differences = [
        tuple(abs(our - their) / abs(their) for our, their in zip(*pairs, strict=True))
        for pairs in zip(ours.curve, theirs.curve, strict=True)
    ]
    agreed = itertools.takewhile(lambda pair: max(pair) <= TOLERANCE, differences[:STEPS])
    largest_loss, largest_norm = (max(pair[which] for pair in differences) for which in (0, 1))
    gradient = largest_of_gradients(ours, theirs)
    return Cell(shape, layout, largest_loss, largest_norm, gradient, agreed_steps=len(list(agreed)))


def largest_of_gradients(ours: LayoutSteps, theirs: LayoutSteps) -> float:
    """Difference of an element in the first step, relative to the scale of its parameter's gradient."""
    (_, norm), mine, expected = theirs.curve[0], ours.gradients(), theirs.gradients()
    assert mine.keys() == expected.keys()
    num_elements = sum(gradient.numel() for gradient in expected.values())
    return max(
        float((mine[name] - gradient).abs().nan_to_num(nan=math.inf).max())
        / tolerance.gradient_scale(gradient.numpy(), norm=norm, num_elements=num_elements)
        for name, gradient in expected.items()
    )


def main() -> None:
    """Train all of it and write docs/parity.md."""
    started = time.perf_counter()
    found: list[Cell] = []
    for shape in SHAPES:
        found += cells([shape], LAYOUTS)
        print(f"{shape}: {len(LAYOUTS)} layouts after {time.perf_counter() - started:.0f} s", flush=True)
    DOCUMENT.write_text(document(found, seconds=time.perf_counter() - started), encoding="utf-8")
    failed = [cell for cell in found if not cell.passes]
    print(f"{DOCUMENT.relative_to(Path.cwd())}: {len(found) - len(failed)} of {len(found)} within {TOLERANCE:g}")
    sys.exit(1 if failed else 0)


DOCUMENT = Path(__file__).parents[2] / "docs" / "parity.md"
_HEAD = """# Every layout against one rank

Written by `make parity`; do not edit. {date}, torch {torch}, Megatron-Core {megatron}, CPU with gloo, {minutes} minutes
on {cores} cores.

Each line is a layout, trained for {steps} steps in fp32 from the same weights on the same tokens as one rank with the
same micro-batch size. A cell holds the largest relative difference of any step's loss (the held-out loss at the end
included), of any step's gradient norm, and of any element of the first step's gradients. The last is relative to the
largest element of its parameter's gradient, as in a certificate: queries and keys hardly move loss or norm at first,
and a wrong position on one rank shows nowhere else. At most {tolerance:g} passes, of gradients {gradient:g};
{passed} of {all} do.

`r` marks cells with experts that were beyond that at first, because tokens went to other experts: where two experts
score almost alike, rounding decides, and every layout rounds in its own way. They were trained again with the routing
of one rank (`Engine.replay_routing`), and the number is that of the second time. A router that chooses wrongly would be
wrong from the first step on: such a cell passes only if its first {least} steps agreed without replay. The last table
says how many did, and how far it was in the end.

The shapes are those of the recipes `dense_every_axis`, `experts_every_axis` and `latent_every_axis`: **dense** has 8
heads and 4 key-value heads. **experts** has one dense layer, then layers of 4 experts, 2 a token, and a shared one,
sigmoid scores, balanced by a bias and a loss over each sequence. **latent** has latent attention and 4 experts, 2 a
token, softmax scores, balanced by a loss over the micro-batch.

What this does not show: NCCL, GPUs, kernels, larger degrees, bf16. `mai certify` says it for a recipe of your own.
"""


def document(found: list[Cell], *, seconds: float) -> str:
    """docs/parity.md."""
    by_place = {(cell.shape, cell.layout): cell for cell in found}
    lines = [
        _HEAD.format(
            date=dt.date.today(),
            torch=torch.__version__,
            megatron=importlib.metadata.version("megatron-core"),
            minutes=round(seconds / 60),
            cores=len(os.sched_getaffinity(0)),
            steps=STEPS,
            tolerance=TOLERANCE,
            gradient=tolerance.GRADIENT,
            least=LEAST_AGREED_STEPS,
            passed=sum(cell.passes for cell in found),
            all=len(found),
        ),
        f"| ranks | layout | with experts also | {' | '.join(f'{shape}: loss, norm, gradient' for shape in SHAPES)} |",
        f"|---|---|---|{'---|' * len(SHAPES)}",
    ]
    for layout in LAYOUTS:
        dense, experts = (layout.parallel(SHAPES[shape]) for shape in ("dense", "experts"))
        row = [_shown(by_place[shape, layout]) for shape in SHAPES]
        also = name_of(experts, beside=dense)
        lines.append(f"| {num_ranks(dense)} | {_cell_text(name_of(dense))} | {also} | {' | '.join(row)} |")
    replayed = [cell for cell in found if cell.before_replay is not None]
    if not replayed:
        return "\n".join([*lines, "", "No cell needed the replay."]) + "\n"
    lines += [
        "",
        "Before the replay:",
        "",
        "| layout | shape | steps that agreed | loss at most | norm at most |",
        "|---|---|---|---|---|",
    ]
    for cell in replayed:
        assert cell.before_replay is not None
        loss, norm = cell.before_replay
        name = _cell_text(name_of(cell.layout.parallel(SHAPES[cell.shape])))
        lines.append(f"| {name} | {cell.shape} | {cell.agreed_steps} of {STEPS} | {loss:.1e} | {norm:.1e} |")
    return "\n".join(lines) + "\n"


def _cell_text(text: str) -> str:
    """In which a | is no border."""
    return text.replace("|", "\\|")


def _shown(cell: Cell) -> str:
    text = f"{cell.loss:.1e}, {cell.norm:.1e}, {cell.gradient:.1e}{' r' if cell.before_replay else ''}"
    return text if cell.passes else f"**{text}**"


if __name__ == "__main__":
    main()
