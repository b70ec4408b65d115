"""What a person is told when a run is complete: how good it is, how it sounds, where it lies, what to try next."""

import shlex
from collections.abc import Sequence
from typing import Any

from mai.data.index import Dataset
from mai.data.loader import open_dataset
from mai.data.tokenizer import read_tokenizer
from mai.engine.device import DeviceKind
from mai.engine.generate import Sampling
from mai.evaluate.baselines import measure_baselines
from mai.model.shapes import num_parameters
from mai.parallel.place import ALONE
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from mai.train.sample import one_rank, sample

_PROMPT_TOKENS = 8
_SAMPLE_TOKENS = 60
_SAMPLING = Sampling(temperature=0.7, top_p=0.9)
# The sample is drawn on one rank, in seconds; a model that was cut because it is large stays cut.
_MAX_PARAMETERS = 200_000_000


def farewell(recipe: Recipe, folder: RunFolder, *, device: DeviceKind, command: Sequence[str]) -> str:
    """The closing words, for a terminal. `command` started the run: what to try next is a variation of it."""
    dataset = open_dataset(recipe)
    path, other = folder.path, folder.path.with_name(folder.path.name + "-2")
    same = [word for word in command if not word.startswith("optimizer.learning_rate=")]
    half = f"optimizer.learning_rate={recipe.optimizer.learning_rate / 2:g}"
    return "\n".join(
        [
            "",
            *_quality(dataset, list(folder.read_metrics())),
            *(_sample(recipe, folder, dataset, device) if num_parameters(recipe.model) <= _MAX_PARAMETERS else []),
            f"Run folder: {path}",
            "Next:",
            f"    mai show {path}",
            f'    mai generate {path} --prompt "class"',
            f"    {shlex.join([*same, half, '--run', str(other)])}",
            "",
        ]
    )


def _quality(dataset: Dataset, records: list[dict[str, Any]]) -> list[str]:
    """The held-out figure beside what simple models reach on the same text; nothing where it was not measured."""
    bits = records[-1].get("held_out_bits_per_byte") if records else None
    if bits is None:
        return []
    baselines = measure_baselines(dataset)
    trigram, gzip = baselines.trigram_bits_per_byte, baselines.gzip_bits_per_byte
    verdict = "below" if bits < trigram else "NOT below"
    return [
        f"Held-out text: {bits:.3f} bits per byte, {verdict} a byte-trigram model fitted on the same training text",
        f"({trigram:.3f}); gzip -9 needs {gzip:.3f}.",
        "",
    ]


def _sample(recipe: Recipe, folder: RunFolder, dataset: Dataset, device: DeviceKind) -> list[str]:
    """How the model goes on from the beginning of the held-out text."""
    tokenizer = read_tokenizer(dataset.folder / "tokenizer.json")
    prompt = tokenizer.decode(dataset.shards("held_out").tokens(0, _PROMPT_TOKENS).tolist())
    said = sample(
        one_rank(recipe), folder, prompt, num_tokens=_SAMPLE_TOKENS, sampling=_SAMPLING, place=ALONE, device=device
    )
    lines = (said.prompt + "|" + said.text).splitlines()
    return [
        f"Given what stands before the |, it says (temperature {_SAMPLING.temperature}):",
        "",
        *(f"    {line}" for line in lines),
        "",
    ]
