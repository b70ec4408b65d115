"""certificate.json: what was compared, how close it was, and what stays unproven."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mai.certify import tolerance
from mai.certify.compare import KINDS, Comparison, Finding
from mai.certify.require import FORMAT_VERSION
from mai.certify.subject import fingerprint
from mai.certify.trial import NUM_STEPS, WEIGHTED
from mai.recipe import Recipe, to_dict
from mai.recipe import fingerprint as recipe_fingerprint
from mai.recipe.shrink import degrees, lost
from mai.run_folder import RunFolder, naming_storage_errors, plain_json, utc_now
from mai.train.versions import commit


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the trials gave."""

    comparisons: Mapping[str, Comparison]
    """By format, fp32 first."""
    seconds: Mapping[str, float]
    """By trial, in the order in which they ran."""
    draw: int
    """Which tokens: 1 where the layout differed with the first ones, and experts got their second chance."""
    batches: Sequence[str] = ()
    """What the batch of each step said of its tokens."""
    wrong_in_first_draw: Sequence[Finding] = ()
    """What differed then."""

    @property
    def wrong(self) -> tuple[str, Sequence[Finding]] | None:
        """The first format that is wrong, and everything that is in its first wrong step; None for a sound layout."""
        return next(((name, found.wrong) for name, found in self.comparisons.items() if found.wrong), None)


def certificate(
    recipe: Recipe, shrunk: Recipe, evidence: Evidence, *, certified: Mapping[str, Any], code: Mapping[str, str]
) -> dict[str, Any]:
    """The whole file, for a sound layout and for one that is not.

    `certified` and `code` (subject.py) are of before the trials: a file may change while they run."""
    value = {
        "format_version": FORMAT_VERSION,
        "passed": evidence.wrong is None,
        "created": utc_now(),
        "recipe": recipe.name,
        "recipe_fingerprint": recipe_fingerprint(recipe),
        "certified": certified,
        "degrees": {name: {"original": was, "shrunk": now} for name, (was, now) in degrees(recipe).items()},
        "stages": {"original": recipe.parallel.stages, "shrunk": shrunk.parallel.stages},
        "code": code,
        "commit": commit(),
        "device": "cpu",
        "backend": "gloo",
        "steps": NUM_STEPS,
        "tokens_of_a_step": shrunk.train.batch_tokens,
        "batches": list(evidence.batches),
        "draw": evidence.draw,
        "wrong_in_first_draw": [_plain(finding) for finding in evidence.wrong_in_first_draw],
        "compared": {name: _compared(name, comparison) for name, comparison in evidence.comparisons.items()},
        "wrong": _wrong(evidence),
        "unproven": unproven(recipe, shrunk, batches=evidence.batches),
        "seconds": {trial: round(seconds, 2) for trial, seconds in evidence.seconds.items()},
        "shrunk_recipe": to_dict(shrunk),
    }
    # Of the text that is written, in which a number that JSON lacks is a word.
    return {**value, "digest": fingerprint(json.loads(plain_json(value)))}


def _compared(name: str, comparison: Comparison) -> dict[str, Any]:
    """By kind: how much, against which tolerance, and where most of it was used."""
    found = {}
    for kind in KINDS:
        findings = [finding for finding in comparison.findings if finding.kind == kind]
        found[kind] = {
            "numbers": sum(finding.num_elements for finding in findings),
            "tolerance": tolerance.STATED[name][kind],
            "worst": _plain(comparison.worst(kind)),
        }
    return found


def _wrong(evidence: Evidence) -> dict[str, Any] | None:
    if evidence.wrong is None:
        return None
    name, findings = evidence.wrong
    return {"format": name, "findings": [_plain(finding) for finding in findings]}


def _plain(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "used": finding.used}


def unproven(recipe: Recipe, shrunk: Recipe, *, batches: Sequence[str]) -> list[str]:
    """What the certificate does not speak of, one sentence each."""
    larger = [
        f"{name} {'as many as there are' if was is None else was} (tried: {now})"
        for name, (was, now) in degrees(recipe).items()
        if now is not None and (was is None or was > now)
    ]
    too_many = lost(recipe)
    without = (
        "segments and positions: a part of your own (model.layer or model.attention_core) takes none, and the weighted "
        "steps went without"
    )
    groups = "optimizer.groups: they name parameters of the real model, and all learned alike in the trial"
    rounded = (
        "bf16: one more rounding of a gradient, as of a sum that is kept in bf16: it moves a tensor no further than "
        "bf16 does on one rank anyway"
    )
    return [
        *([without] if WEIGHTED in batches else []),
        *([groups] if recipe.optimizer.groups else []),
        *([rounded] if "bf16" in recipe.precision.formats else []),
        "NCCL and the network between nodes: the ranks were processes of one machine and spoke over gloo",
        "kernels that only run on a GPU: everything was computed by those of the CPU",
        *([f"degrees beyond the tried ones: {', '.join(larger)}"] if larger else []),
        *([f"what 16 ranks are too few for: {', '.join(too_many)}"] if too_many else []),
        f"the real sizes: {_sizes(recipe)} (tried: {_sizes(shrunk)})",
        f"what takes more than {NUM_STEPS} steps to show, such as a slow drift between copies",
    ]


def _sizes(recipe: Recipe) -> str:
    model = recipe.model
    return f"{model.num_layers} layers of width {model.hidden_size}, {recipe.data.sequence_length} tokens a sequence"


def write(value: Mapping[str, Any], path: Path) -> None:
    """Replace the file as a whole."""
    with naming_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    RunFolder(path.parent).write_json(path.name, dict(value))
