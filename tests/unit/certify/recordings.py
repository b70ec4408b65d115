"""Recordings made up by hand: a model of one layer's names, with numbers that a test decides."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mai.certify.trial import NUM_STEPS, PLAIN
from mai.certify.values import Kind, Piece, Recording, Writer

Numbers = NDArray[np.float32]
Held = dict[str, tuple[tuple[int, ...], tuple[int, ...], int, int]]
"""By name: where the rank's box begins, its shape, and the range of it that the rank holds."""

SHAPES = {
    "embedding.word_embeddings.weight": (128, 64),
    "decoder.layers.0.input_layernorm.weight": (64,),
    "decoder.layers.0.mlp.linear_fc2.weight": (64, 128),
    "output_layer.weight": (128, 64),
}
FORWARD = list(SHAPES)

ONE_RANK: list[Held] = [{name: ((0,) * len(shape), shape, 0, int(np.prod(shape))) for name, shape in SHAPES.items()}]
# Two tensor ranks: rows, a replica, columns, rows.
TWO_RANKS: list[Held] = [
    {
        "embedding.word_embeddings.weight": ((64 * rank, 0), (64, 64), 0, 4096),
        "decoder.layers.0.input_layernorm.weight": ((0,), (64,), 0, 64),
        "decoder.layers.0.mlp.linear_fc2.weight": ((0, 64 * rank), (64, 64), 0, 4096),
        "output_layer.weight": ((64 * rank, 0), (64, 64), 0, 4096),
    }
    for rank in range(2)
]

Change = Callable[[int, int, str, str, Numbers], Numbers]
"""(rank, step, kind, name, right numbers) -> what the rank holds."""


def right(step: int, kind: Kind, name: str) -> Numbers:
    """The same for every layout."""
    drawn = np.random.default_rng([step, len(kind), FORWARD.index(name)]).standard_normal(SHAPES[name])
    return np.square(drawn).astype(np.float32) if kind == "state" else drawn.astype(np.float32)


def unchanged(_rank: int, _step: int, _kind: str, _name: str, numbers: Numbers) -> Numbers:
    return numbers


def recorded(folder: Path, held: list[Held], change: Change = unchanged, *, loss: float = 6.0) -> Recording:
    for rank, parts in enumerate(held):
        with Writer(folder, rank=rank) as writer:
            for step in range(NUM_STEPS + 1):
                kinds: tuple[Kind, ...] = ("gradient", "weight", "state") if step else ("weight",)
                if step:
                    writer.add_scalars(step, loss=loss, norm=1.0, batch=PLAIN)
                for kind in kinds:
                    for name, (offset, shape, start, stop) in parts.items():
                        piece = Piece(step, kind, name, SHAPES[name], offset, shape, start, stop, at=0)
                        writer.add(piece, change(rank, step, kind, name, piece.of(right(step, kind, name))))
    return Recording(folder)
