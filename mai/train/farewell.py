"""What a person is told when a run is complete: how good it is, how it sounds, where it lies, what to try next."""

from typing import Any

from mai.data.loader import open_dataset
from mai.engine.device import DeviceKind
from mai.engine.generate import Sampling
from mai.evaluate.baselines import measure_baselines
from mai.parallel.place import ALONE
from mai.recipe import Recipe
from mai.run_folder import RunFolder
from mai.train.sample import one_rank, sample

# No space at its end: in a byte-level BPE the space belongs to the word that follows.
_PROMPT = "    def"
_SAMPLE_TOKENS = 60


def farewell(recipe: Recipe, folder: RunFolder, *, device: DeviceKind) -> str:
    """The closing words, for a terminal. Loads the newest checkpoint on one rank of this process."""
    path, other = folder.path, folder.path.with_name(folder.path.name + "-slow")
    sampling = Sampling(temperature=0.7, top_p=0.9)
    said = sample(
        one_rank(recipe), folder, _PROMPT, num_tokens=_SAMPLE_TOKENS, sampling=sampling, place=ALONE, device=device
    )
    return "\n".join(
        [
            "",
            _quality(recipe, list(folder.read_metrics())),
            "",
            f"It continues {_PROMPT!r} so (temperature 0.7):",
            *(f"    {line}" for line in (said.prompt + said.text).splitlines()),
            "",
            f"Run folder: {path}",
            "Next:",
            f"    mai show {path}",
            f'    mai generate {path} --prompt "class"',
            f"    mai train {recipe.name} optimizer.learning_rate=3e-3 --run {other}",
            "",
        ]
    )


def _quality(recipe: Recipe, records: list[dict[str, Any]]) -> str:
    """The held-out figure beside what simple models reach on the same text; empty where it was not measured."""
    bits = records[-1].get("held_out_bits_per_byte") if records else None
    if bits is None:
        return ""
    baselines = measure_baselines(open_dataset(recipe))
    trigram, gzip = baselines.trigram_bits_per_byte, baselines.gzip_bits_per_byte
    verdict = "below" if bits < trigram else "NOT below"
    return (
        f"Held-out text: {bits:.3f} bits per byte, {verdict} a byte-trigram model fitted on the same training text "
        f"({trigram:.3f}); gzip -9 needs {gzip:.3f}."
    )
