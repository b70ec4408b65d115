"""Held-out loss in bits per byte of text, which does not depend on the tokenizer.

bits per byte = sum of the tokens' losses in nats / ln 2 / bytes of text that those tokens stand for
"""

import math
from dataclasses import dataclass

from mai.batch import Batch
from mai.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class HeldOut:
    loss: float
    """Nats per token."""
    bits_per_byte: float


def evaluate(engine: Engine, batch: Batch, *, num_bytes: float) -> HeldOut:
    """The model's loss on text it was not trained on; all ranks must call.

    `batch` is this data-parallel rank's part; `num_bytes` counts the text behind all ranks' targets, each
    as often as it counts in the loss."""
    nats, tokens = engine.evaluate(batch)
    return HeldOut(loss=nats / tokens, bits_per_byte=nats / math.log(2) / num_bytes)
