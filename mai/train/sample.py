"""Let a trained run speak: newest checkpoint of a run folder -> text."""

import sys
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from mai.checkpoint import resume, store
from mai.data.token_roles import Roles
from mai.data.tokenizer import encode, read_tokenizer
from mai.engine.device import DeviceKind, open_device
from mai.engine.frozen_model import FrozenModel
from mai.engine.generate import Sampling
from mai.engine.groups import build_groups, join_world, leave_world
from mai.errors import CheckpointError, ExitCode
from mai.log import log
from mai.parallel.layout import Layout
from mai.parallel.place import Place
from mai.recipe import ParallelConfig, Recipe
from mai.run_folder import RunFolder, plain_json


@dataclass(frozen=True, slots=True)
class Sample:
    prompt: str
    text: str
    """What the model said after the prompt."""
    step: int
    """The checkpoint's."""
    num_tokens: int


def sample(
    recipe: Recipe,
    folder: RunFolder,
    prompt: str,
    *,
    num_tokens: int,
    sampling: Sampling,
    place: Place,
    device: DeviceKind,
    step: int | None = None,
) -> Sample:
    """Continue the prompt with the folder's newest whole checkpoint, or that of `step`; all ranks must call.

    Text of a special token in the prompt is that token. The recipe's layout must fit `place.world_size`:
    `one_rank(recipe)` fits 1. Raises CheckpointError."""
    opened, timeout_seconds = open_device(device, place), recipe.resilience.peer_timeout_seconds
    if not store.committed_steps(folder.checkpoints):
        raise CheckpointError(f"{folder.checkpoints} holds no checkpoint; train first, with mai train")
    roles = Roles.of_run(folder.read_json("run.json") or {})
    tokenizer = read_tokenizer(folder.tokenizer, takes_special=True)
    before = [] if roles.beginning is None else [roles.beginning]
    # An empty prompt starts a new document. One that says its beginning itself has it once.
    tokens = encode(tokenizer, prompt)
    tokens = (tokens if tokens[:1] == before else before + tokens) or [roles.document_end]
    join_world(backend=opened.backend, place=place, timeout_seconds=timeout_seconds)
    layout = Layout.of(recipe.parallel, world_size=place.world_size)
    groups = build_groups(layout, timeout_seconds=timeout_seconds)
    speaker = FrozenModel(recipe, layout, groups, opened, max_length=len(tokens) + num_tokens)
    manifest = resume.resume(
        folder.checkpoints,
        speaker.shards,
        check=lambda _: None,
        leave_out=partial(log.warning, "checkpoint of step %d is left out: %s"),
        timeout_seconds=timeout_seconds,
        only=step,
    )
    assert manifest is not None, "there was a checkpoint a moment ago"
    speaker.finish_load()
    new_tokens = speaker.generate(
        torch.tensor([tokens]), num_tokens=num_tokens, sampling=sampling, end_tokens=roles.ends
    )
    leave_world()
    said = [token for token in new_tokens[0].tolist() if token not in roles.ends]
    return Sample(prompt=prompt, text=tokenizer.decode(said), step=manifest.progress.step, num_tokens=len(said))


def speak(
    recipe: Recipe,
    folder: RunFolder,
    prompt: str,
    *,
    place: Place,
    device: DeviceKind,
    as_json: bool,
    tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    step: int | None,
) -> ExitCode:
    """`sample` for a person: the first rank prints the text, or the Sample as JSON."""
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    said = sample(recipe, folder, prompt, num_tokens=tokens, sampling=sampling, place=place, device=device, step=step)
    if place.rank == 0:
        sys.stdout.write((plain_json(asdict(said), indent=2) if as_json else said.prompt + said.text) + "\n")
    return ExitCode.COMPLETE


def one_rank(recipe: Recipe) -> Recipe:
    """The same model on one rank."""
    return replace(recipe, parallel=ParallelConfig(data=1))


def one_copy(recipe: Recipe) -> Recipe:
    """The tensor and pipeline ranks of the layout, once: more copies would all say the same, and one new token cannot
    be cut along the sequence."""
    trained = recipe.parallel
    return replace(
        recipe, parallel=ParallelConfig(tensor=trained.tensor, pipeline=trained.pipeline, stages="balanced", data=1)
    )
