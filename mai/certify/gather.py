"""The trials one after the other, and the comparison of what they wrote."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from mai.certify.band import compare_bf16
from mai.certify.certificate import Evidence
from mai.certify.compare import Comparison, compare
from mai.certify.trial import Trial, run, trials
from mai.certify.values import Recording
from mai.errors import ExitCode
from mai.parallel.place import Place
from mai.recipe import Recipe

StartRanks = Callable[[Trial, Callable[[Place], ExitCode]], None]
"""Runs the function on the trial's ranks, and raises what ends the whole command when one of them fails."""


def gather(shrunk: Recipe, folder: Path, *, start: StartRanks, say: Callable[[str], None]) -> Evidence:
    """Compare until something is wrong; experts get a second chance, with other tokens.

    Two layouts round a router's scores differently. Now and then two experts' scores are so close that the token goes
    to another one, and all gradients differ, although both layouts are right. Other tokens have other scores; a layout
    that is wrong is wrong again. The weights before the first step have seen no token, and get no second chance."""
    first = _of_draw(shrunk, folder, 0, start=start, say=say)
    if first.wrong is None or shrunk.model.experts is None:
        return first
    _, findings = first.wrong
    if findings[0].step == 0:
        return first
    say("  differs; once more with other tokens, in case a rounding sent one to another expert")
    return replace(_of_draw(shrunk, folder, 1, start=start, say=say), wrong_in_first_draw=findings)


def _of_draw(shrunk: Recipe, folder: Path, draw: int, *, start: StartRanks, say: Callable[[str], None]) -> Evidence:
    seconds: dict[str, float] = {}
    recordings: list[Recording] = []
    comparisons: dict[str, Comparison] = {}
    for trial in trials(shrunk):
        began = time.perf_counter()
        values = folder / f"draw-{draw}" / trial.title
        start(trial, partial(_rank, trial.recipe, values, draw))
        recordings.append(Recording(values))
        if len(recordings) == 2:
            comparisons["fp32"] = compare(recordings[0], recordings[1], shrunk)
        if len(recordings) == 4:
            comparisons["bf16"] = compare_bf16(recordings[0], recordings[2], recordings[3], shrunk)
        seconds[trial.title] = time.perf_counter() - began
        say(f"  {trial.title:15} {seconds[trial.title]:5.1f} s")
        if any(comparison.wrong for comparison in comparisons.values()):
            break
    batches = [recordings[0].batches[step] for step in sorted(recordings[0].batches)]
    return Evidence(comparisons=comparisons, seconds=seconds, draw=draw, batches=batches)


def _rank(recipe: Recipe, folder: Path, draw: int, place: Place) -> ExitCode:
    return run(recipe, folder, draw=draw, place=place)
