"""The byte baselines equal their plain definitions, and are of the text that the model sees."""

import gzip
import json
import math
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mai.data.prepare import prepare
from mai.evaluate import baselines
from mai.evaluate.baselines import gzip_bits_per_byte, measure_baselines, trigram_bits_per_byte
from recipes.debug.tiny import tiny


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def sentences(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(["the", "model", "reads", "caf\u00e9", "text\0", "x"], k=words)) + "\0"


def plain_trigram(train: bytes, held_out: bytes) -> float:
    seen: dict[bytes, Counter[int]] = defaultdict(Counter)
    padded = b"\0\0" + train
    for end in range(2, len(padded)):
        for order in (0, 1, 2):
            seen[padded[end - order : end]][padded[end]] += 1

    def probability(context: bytes, byte: int) -> float:
        lower = probability(context[1:], byte) if context else 1 / 256
        counts = seen.get(context)
        if not counts:
            return lower
        return (counts[byte] + len(counts) * lower) / (counts.total() + len(counts))

    padded = b"\0\0" + held_out
    bits = -sum(math.log2(probability(padded[end - 2 : end], padded[end])) for end in range(2, len(padded)))
    return bits / sum(byte != 0 for byte in held_out)


@pytest.mark.parametrize("block", [7, 50, 10_000])
def test_the_trigram_model_equals_the_plain_one(monkeypatch, block):
    monkeypatch.setattr(baselines, "_BLOCK", block)
    train, held_out = sentences(0, 40), sentences(1, 20) + "unseen ZQ"
    found = trigram_bits_per_byte(as_bytes(train), as_bytes(held_out))
    assert found == pytest.approx(plain_trigram(train.encode(), held_out.encode()), rel=1e-12)


def test_random_bytes_cost_at_least_eight_bits_and_repetition_costs_none():
    noise = np.random.default_rng(0).integers(1, 256, 20_000).astype(np.uint8)
    assert 7.99 < trigram_bits_per_byte(noise[:10_000], noise[10_000:]) < 9
    assert trigram_bits_per_byte(as_bytes("abcd" * 5000), as_bytes("abcd" * 500)) < 0.02


def test_gzip_counts_the_compressed_bits_of_all_over_the_bytes_of_text():
    text = sentences(0, 500)
    bits = 8 * len(gzip.compress(text.encode(), 9, mtime=0))
    assert gzip_bits_per_byte(as_bytes(text)) == bits / sum(byte != 0 for byte in text.encode())


def test_both_figures_are_of_the_prepared_text_and_kept_beside_it(tmp_path: Path):
    (tmp_path / "corpus").mkdir()
    for number in range(30):
        (tmp_path / "corpus" / f"{number}.txt").write_text(sentences(number, 50).replace("\0", "\n"))
    recipe = tiny()
    data = replace(
        recipe.data, documents=(str(tmp_path / "corpus"),), folder=str(tmp_path / "prepared"), held_out_fraction=0.3
    )
    dataset = prepare(replace(recipe, data=data), workers=1).dataset
    text = {}
    for split in ("train", "held_out"):
        shards = dataset.shards(split)
        text[split] = dataset.token_text().decode(shards.tokens(0, shards.num_tokens))
        assert np.count_nonzero(text[split]) == dataset.manifest.splits[split].text_bytes

    found = measure_baselines(dataset)
    assert found.trigram_bits_per_byte == trigram_bits_per_byte(text["train"], text["held_out"])
    assert found.gzip_bits_per_byte == gzip_bits_per_byte(text["held_out"])

    kept = tmp_path / "prepared" / "baselines.json"
    assert json.loads(kept.read_text())["dataset"] == dataset.manifest.fingerprint
    assert measure_baselines(dataset) == found
    kept.write_text(json.dumps({"dataset": "another", "trigram_bits_per_byte": 0, "gzip_bits_per_byte": 0}))
    assert measure_baselines(dataset) == found
    prepared_again = prepare(replace(recipe, data=data), workers=1)
    assert not prepared_again.is_new
