"""What watchers see: the names of all metrics, their units, and what opens and closes a run.

The field names are the keys of a line of metrics.jsonl and the names in wandb: a name is decided here, once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mai.run_folder import plain_json


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One finished step. Numbers are global, over all ranks, where nothing else is said."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Training loss of this step's batch, nats per token."""
    multi_token_loss: float | None = None
    """The same of the tokens that further depths predict, before its weight; None without such depths."""
    gradient_norm: float
    """Global L2 norm before clipping."""
    learning_rate: float
    tokens: int
    """Tokens since the start of the run, this step's included."""
    step_seconds: float
    """Wall-clock time of the step."""
    tokens_per_second: float
    model_flops_per_second: float
    """Floating-point operations that the model asks for, over the step's time; `RunStarted` names the convention."""
    utilisation: float | None
    """Share of the devices' peak; None where the peak is not known, as on any CPU."""
    expert_imbalance: float | None = None
    """Tokens of the busiest expert over the mean, in the layer where that is most; None without experts."""
    memory_bytes: int
    """Peak of the reporting rank so far: allocated on CUDA, resident set on CPU."""
    kept: bool
    """Whether the update was applied."""
    held_out_loss: float | None = None
    """Nats per token; None on steps that are not evaluated."""
    held_out_bits_per_byte: float | None = None
    position: int
    """Where the data order stands after this step."""
    time: str
    """UTC, ISO 8601."""
    attempt: int

    def to_json_line(self) -> str:
        """One line of metrics.jsonl, its end included."""
        return plain_json(asdict(self)) + "\n"


OWN_NAMES = frozenset(field.name for field in fields(StepRecord))
"""What mai calls its metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What a script said of a step, under names of its own."""

    step: int
    attempt: int
    time: str
    """UTC, ISO 8601."""
    values: Mapping[str, float]

    def to_json_line(self) -> str:
        """One line of metrics.jsonl, its end included."""
        about = {"step": self.step, "attempt": self.attempt, "time": self.time}
        return plain_json({**about, "logged": self.values}) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """What a watcher should know before the first step."""

    run_id: str
    name: str
    """The recipe's."""
    folder: Path
    attempt: int
    step: int
    """Steps done before this attempt; 0 unless it resumes."""
    steps: int
    """Steps of the whole run."""
    num_parameters: int
    layout: str
    """As people say it: "tensor 2, pipeline 2, data 2"."""
    device: str
    """As people say it: "8 CPU ranks"."""
    flop_convention: str
    """What `model_flops_per_second` counts: "6 per parameter and token + attention, no recomputation"."""
    recipe: dict[str, Any]
    """The resolved recipe as JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """How it ended, as in terminal-<attempt>.json."""

    code: int
    name: str
    step: int
    message: str
    """One sentence for people."""
