"""What a model of bytes must beat: a byte-trigram model and gzip, on the same training and held-out text.

Bits per byte = bits to encode the text with the ends of its documents / UTF-8 bytes of the text. The ends cost bits,
for the baselines as for the model, and count no byte. Here each end is one NUL, which no document holds.
"""

import gzip
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mai.data.files import write_atomically
from mai.data.index import Dataset
from mai.data.split import Split
from mai.errors import StorageError

BASELINES_NAME = "baselines.json"
FITTED_TOKENS = 2**26
"""Training tokens that the trigram model is fitted on, at most: it has 2**24 cells and learns no more from more."""

_NUM_BYTES = 256
_BLOCK = 2**22

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Baselines:
    trigram_bits_per_byte: float
    gzip_bits_per_byte: float


def measure_baselines(dataset: Dataset) -> Baselines:
    """Both figures for a prepared folder, computed once and kept beside the shards."""
    path = dataset.folder / BASELINES_NAME
    fingerprint = dataset.manifest.fingerprint
    kept = _read_kept(path)
    if kept.get("dataset") == fingerprint:
        return Baselines(kept["trigram_bits_per_byte"], kept["gzip_bits_per_byte"])
    held_out = _text(dataset, "held_out")
    baselines = Baselines(trigram_bits_per_byte(_text(dataset, "train"), held_out), gzip_bits_per_byte(held_out))
    content = json.dumps({"dataset": fingerprint, **asdict(baselines)}, indent=1) + "\n"
    with suppress(StorageError):  # a shared folder that is read-only: computed again next time
        write_atomically(path, content.encode())
    return baselines


def trigram_bits_per_byte(train: Bytes, held_out: Bytes) -> float:
    """An interpolated byte-trigram model with Witten-Bell smoothing, fitted on `train` alone.

    p(c | ab) = (n(abc) + t(ab) p(c | b)) / (n(ab) + t(ab)), t(ab) = different bytes seen after ab, and so down to
    the uniform distribution (Witten and Bell, 1991). No weight is tuned, so none can be tuned on the held-out text."""
    trigrams = _count_trigrams(train)
    bigrams = trigrams.sum(axis=0)
    unigrams = bigrams.sum(axis=0)
    first, second, third = _windows(held_out)

    probability = np.full(len(third), 1 / _NUM_BYTES)
    probability = _interpolate(unigrams, (), third, lower=probability)
    probability = _interpolate(bigrams, (second,), third, lower=probability)
    probability = _interpolate(trigrams, (first, second), third, lower=probability)
    return float(-np.log2(probability).sum() / np.count_nonzero(held_out))


def gzip_bits_per_byte(held_out: Bytes) -> float:
    """gzip at its best level, over the held-out text as one stream."""
    return 8 * len(gzip.compress(held_out.tobytes(), compresslevel=9, mtime=0)) / int(np.count_nonzero(held_out))


def _interpolate(
    counts: Counts, context: tuple[Counts, ...], byte: Counts, *, lower: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Witten-Bell: what was seen after the context, and `lower` by as much as the context still brings new bytes."""
    seen = counts.sum(axis=-1)[context]
    different = np.count_nonzero(counts, axis=-1)[context] if context else np.count_nonzero(counts)
    # A context never seen has both at zero and leaves `lower` alone.
    weight = np.maximum(different, 1)
    probability: NDArray[np.float64] = (counts[(*context, byte)] + weight * lower) / (seen + weight)
    return probability


def _count_trigrams(text: Bytes) -> Counts:
    counts = np.zeros(_NUM_BYTES**3, np.int64)
    for start in range(0, len(text), _BLOCK):
        # Two bytes of the block before, so that no trigram is lost between blocks.
        first, second, third = _windows(text[max(0, start - 2) : start + _BLOCK], is_start=start == 0)
        counts += np.bincount((first << 16) | (second << 8) | third, minlength=len(counts))
    return counts.reshape(_NUM_BYTES, _NUM_BYTES, _NUM_BYTES)


def _windows(text: Bytes, *, is_start: bool = True) -> tuple[Counts, Counts, Counts]:
    """Each byte with the two before it; the text begins as if a document had ended there."""
    padded = np.concatenate([np.zeros(2 if is_start else 0, np.int64), text])
    return padded[:-2], padded[1:-1], padded[2:]


def _text(dataset: Dataset, split: Split) -> Bytes:
    shards, text = dataset.shards(split), dataset.token_text()
    stop = min(shards.num_tokens, FITTED_TOKENS)
    blocks = (shards.tokens(start, min(_BLOCK, stop - start)) for start in range(0, stop, _BLOCK))
    return np.concatenate([text.decode(tokens) for tokens in blocks])


def _read_kept(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
