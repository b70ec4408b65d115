"""A model that was imported, trained on and exported is the model that the training left, with all that came beside it;
and what would make it another one is refused before the first step."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mai.run_folder import RunFolder
from tests.house.sources import ROOT
from tests.parity.hugging_face import LENGTH, config_of, tokens, write_model
from tests.parity.test_families import TOLERANCE, export, import_, recipe_of

pytestmark = [pytest.mark.usefixtures("cpu_engine"), pytest.mark.slow]

SIDE_FILES = {
    "generation_config.json": {"eos_token_id": [0, 0], "temperature": 0.6, "transformers_version": "5.0.0"},
    "tokenizer_config.json": {"eos_token": "<|end|>", "model_max_length": 128, "added_tokens_decoder": {}},
    "special_tokens_map.json": {"eos_token": "<|end|>"},
}
PASSED_OVER = ["README.md", "modeling_own.py"]
TEMPLATE = "{% for message in messages %}{{ message.content }}<|end|>{% endfor %}"


def train(recipe: Path, run: Path, *words: str) -> subprocess.CompletedProcess[str]:
    steps = ["train.steps=2", "train.batch_tokens=96", f"data.sequence_length={LENGTH}", "evaluate.sequences=2"]
    steps += ["optimizer.schedule.warmup_steps=0", "optimizer.learning_rate=0.01"]
    command = [sys.executable, "-m", "mai", "train", recipe, *steps, *words, "--run", run, "--device", "cpu"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"the capital of France is Paris, and this is document {number}. " * 3)
    return folder


@pytest.fixture(scope="module")
def trained(cpu_engine: None, documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hf, run (imported), more (trained from it) and out (exported)."""
    folder = tmp_path_factory.mktemp("trained")
    write_model(folder / "hf", "qwen3", 1)
    for name, content in SIDE_FILES.items():
        (folder / "hf" / name).write_text(json.dumps(content))
    (folder / "hf/chat_template.jinja").write_text(TEMPLATE)
    (folder / "hf/LICENSE").write_text("as it came")
    (folder / "hf/tokenizer.model").write_bytes(b"\x0a\x0b")
    for name in PASSED_OVER:
        (folder / "hf" / name).write_text("# of the model as it was")
    import_(folder / "hf", folder / "run")
    words = [f"data.documents={documents}", f"data.folder={folder / 'data'}", "data.held_out_fraction=0.2"]
    done = train(folder / "run/recipe.json", folder / "more", *words)
    assert done.returncode == 0, done.stderr
    export(folder / "more", folder / "out")
    return folder


def test_every_side_file_goes_out_as_it_came(trained: Path) -> None:
    for name in (*SIDE_FILES, "chat_template.jinja", "LICENSE", "tokenizer.model", "tokenizer.json"):
        assert (trained / "out" / name).read_bytes() == (trained / "hf" / name).read_bytes(), name
    assert config_of(trained / "out") == config_of(trained / "hf")


def test_what_does_not_go_along_is_told(trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mai", "import", "hf", trained / "hf", tmp_path / "run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"neither read nor kept for an export: {', '.join(PASSED_OVER)}" in done.stdout
    assert not [name for name in PASSED_OVER if (trained / "out" / name).exists()]


def test_transformers_computes_what_the_training_left(trained: Path, tmp_path: Path) -> None:
    """Its logits are not those of before, and mai's of the export are mai's of the run."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before, after = (
        AutoModelForCausalLM.from_pretrained(trained / name, dtype=torch.float32, local_files_only=True).eval()
        for name in ("hf", "out")
    )
    with torch.no_grad():
        difference = (before(tokens()).logits - after(tokens()).logits).abs().max()
    assert float(difference) > 10 * TOLERANCE
    said = [sys.executable, "-m", "mai", "generate", trained / "more", "--prompt", "the capital of", "--tokens", "8"]
    said += ["--temperature", "0"]
    done = subprocess.run([*said, "--json", "--device", "cpu"], cwd=ROOT, capture_output=True, text=True, check=True)
    tokenizer = AutoTokenizer.from_pretrained(trained / "out", local_files_only=True)
    inputs = torch.tensor([tokenizer("the capital of", add_special_tokens=False).input_ids])
    with torch.no_grad():
        greedy = after.generate(inputs, max_new_tokens=8, do_sample=False, eos_token_id=0)[0, inputs.shape[1] :]
    assert tokenizer.decode([token for token in greedy.tolist() if token != 0]) == json.loads(done.stdout)["text"]


def test_a_run_that_starts_from_another_tokens_is_refused(trained: Path, documents: Path, tmp_path: Path) -> None:
    other = json.loads((trained / "run/tokenizer.json").read_text())
    first, second = list(other["model"]["vocab"])[-2:]
    vocab = other["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (tmp_path / "other.json").write_text(json.dumps(other))
    words = [f"data.documents={documents}", f"data.folder={tmp_path / 'data'}", "data.held_out_fraction=0.2"]
    done = train(trained / "run/recipe.json", tmp_path / "more", *words, f"data.tokenizer={tmp_path / 'other.json'}")
    assert done.returncode == 82, done.stderr
    assert "was trained with another tokenizer" in done.stderr
    assert not any((tmp_path / "more/checkpoints").iterdir())


@pytest.mark.parametrize("take", ["weights", "all"])
def test_a_checkpoint_of_a_run_is_started_from_with_its_moments_or_without(
    take: str, trained: Path, tmp_path: Path
) -> None:
    """The parent's tokenizer is the default."""
    (step,) = (trained / "more/checkpoints").glob("step-*")
    words = ["data.tokenizer=none", f"data.folder={tmp_path / 'data'}", "data.held_out_fraction=0.2"]
    words += [f"data.documents={recipe_of(trained / 'more').data.documents[0]}"]
    words += [f"checkpoint.start_from={step}", f"checkpoint.take={take}"]
    done = train(trained / "run/recipe.json", tmp_path / "more", *words)
    assert done.returncode == 0, done.stderr
    events = list(RunFolder(tmp_path / "more").read_events(1))
    (taken,) = [event for event in events if event["kind"].endswith("taken")]
    assert taken["kind"] == {"weights": "weights taken", "all": "weights and optimizer taken"}[take]
    assert taken["step"] == 2
    assert (tmp_path / "more/tokenizer.json").read_bytes() == (trained / "hf/tokenizer.json").read_bytes()


def changed(source: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(source, target)
    (target / "config.json").write_text(json.dumps({**config_of(source), **config}))
    return target


def test_tied_weights_that_are_stored_twice_come_in_and_go_out(trained: Path, tmp_path: Path) -> None:
    from tests.parity.hugging_face import read_tensors, write_tensors

    folder = Path(shutil.copytree(trained / "hf", tmp_path / "hf"))
    held = read_tensors(folder)
    held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    write_tensors(folder, held)
    import_(folder, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    del held["model.layers.0.self_attn.rotary_emb.inv_freq"]
    after = read_tensors(tmp_path / "out")
    assert after.keys() == held.keys()
    assert all(torch.equal(held[name], after[name]) for name in held)


def test_an_export_does_not_say_that_it_is_quantised(trained: Path, tmp_path: Path) -> None:
    said = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    import_(changed(trained / "hf", tmp_path / "hf", quantization_config=said), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    assert "quantization_config" not in config_of(tmp_path / "out")


def test_a_longer_training_raises_what_the_model_is_meant_for(trained: Path, tmp_path: Path) -> None:
    import_(trained / "hf", tmp_path / "run", "data.sequence_length=512")
    export(tmp_path / "run", tmp_path / "out")
    assert config_of(tmp_path / "out")["max_position_embeddings"] == 512
    assert config_of(trained / "out")["max_position_embeddings"] == 128
