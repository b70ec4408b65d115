"""A drawn configuration beside transformers: equal, or refused. Nothing else may come out."""

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mai.errors import MaiError
from mai.recipe import ParallelConfig
from mai.run_folder import RunFolder
from tests.families.draw import draw
from tests.parity.hugging_face import tokens, write_tokenizer
from tests.parity.test_families import logits
from tests.ranks import RankError, on_ranks

TOLERANCE = 1e-4
ONE_RANK = ParallelConfig(data=1)


@dataclass(slots=True)
class Case:
    """One draw, and what came of it."""

    family: str
    number: int
    config: dict[str, Any]
    folder: Path
    not_a_model: str = ""
    """Why transformers does not take it."""
    refused: str = ""
    """What mai says."""
    failure: str = ""
    """What ended a rank, where it was not refused."""
    expected: torch.Tensor | None = None
    differences: dict[str, float] = field(default_factory=dict)
    """By layout: the largest of a logit."""

    @property
    def is_compared(self) -> bool:
        return self.expected is not None and not self.refused

    @property
    def is_wrong(self) -> bool:
        return any(not one <= TOLERANCE for one in self.differences.values())

    @property
    def run(self) -> Path:
        return self.folder / "run"


def prepare(family: str, number: int, folder: Path) -> Case:
    """Write the model with transformers and import it with mai."""
    from mai.train.hugging_face import import_run

    case = Case(family, number, draw(family, number), folder)
    case.expected = _write(case)
    if case.expected is not None:
        try:
            import_run(folder / "hf", RunFolder(case.run), (), progress=False, workers=1)
        except MaiError as error:
            case.refused = str(error).replace(f"{folder}/hf/", "")
    shutil.rmtree(folder / "hf", ignore_errors=True)
    return case


def _write(case: Case) -> torch.Tensor | None:
    """Returns transformers' logits; None where it does not take the configuration."""
    from transformers import AutoConfig, AutoModelForCausalLM

    place = case.folder / "hf"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(case.config))
    torch.manual_seed(case.number)
    try:
        config = AutoConfig.from_pretrained(place, local_files_only=True)
        config._attn_implementation = "eager"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = AutoModelForCausalLM.from_config(config).float().eval()
        fill(model)
        with torch.no_grad():
            found: torch.Tensor = model(tokens()).logits
        if not bool(found.isfinite().all()):
            case.not_a_model = "its logits are no numbers"
            return None
        model.save_pretrained(place)
    except Exception as error:  # noqa: BLE001 (whatever it says to a configuration that nobody made)
        case.not_a_model = f"{type(error).__name__}: {error}"
        return None
    # As it was drawn, not as transformers writes it.
    (place / "config.json").write_text(json.dumps(case.config))
    write_tokenizer(place)
    return found


def fill(model: torch.nn.Module) -> None:
    """Weights large enough that every part of the model shows in the logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and "bias" not in name and "sinks" not in name
            parameter.uniform_(0.5, 1.5) if is_norm else parameter.normal_(0, 0.08)
        for name, buffer in model.named_buffers():
            if "correction" in name:
                buffer.normal_(0, 0.1)


def layouts_of(config: dict[str, Any]) -> ParallelConfig:
    """Tensor 2 x pipeline 2, or pipeline 2 alone where two ranks cannot share the key heads."""
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    is_even = heads % 2 == 0 and config["num_attention_heads"] % 2 == 0
    return ParallelConfig(tensor=2 if is_even else 1, pipeline=2, data=1)


def name_of(parallel: ParallelConfig) -> str:
    return "one rank" if parallel.model_ranks == 1 else f"tensor {parallel.tensor} x pipeline {parallel.pipeline}"


def compare(cases: Sequence[Case]) -> None:
    """Run what was imported at one rank, and cut; the ranks start once for each layout."""
    compared = [one for one in cases if one.is_compared]
    for parallel in (
        ONE_RANK,
        ParallelConfig(tensor=1, pipeline=2, data=1),
        ParallelConfig(tensor=2, pipeline=2, data=1),
    ):
        these = [one for one in compared if parallel in (ONE_RANK, layouts_of(one.config))]
        if not these:
            continue
        try:
            answers = on_ranks(parallel.model_ranks, logits, [(one.run, parallel) for one in these], tokens().numpy())[
                -1
            ]
        except RankError:
            for one in these:
                one.differences[name_of(parallel)] = _difference(one, parallel)
            continue
        for one, answer in zip(these, answers, strict=True):
            one.differences[name_of(parallel)] = _distance(one, answer)


def _difference(case: Case, parallel: ParallelConfig) -> float:
    try:
        answers = on_ranks(parallel.model_ranks, logits, [(case.run, parallel)], tokens().numpy())
    except RankError as error:
        case.failure = f"a rank failed: {str(error).strip().splitlines()[-1]}"
        return float("nan")
    return _distance(case, answers[-1][0])


def _distance(case: Case, answer: Any) -> float:
    assert case.expected is not None
    return float((torch.from_numpy(answer) - case.expected).abs().max())
