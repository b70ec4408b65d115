"""Which sinks a run has: `SINKS` are those that a recipe may name; metrics.jsonl and the terminal are always there."""

import sys

from mai.observe.observer import Sink
from mai.observe.sinks.jsonl import JsonlSink
from mai.observe.sinks.terminal import terminal_sink
from mai.observe.sinks.wandb import WandbSink
from mai.recipe import ObserveConfig
from mai.run_folder import RunFolder

SINKS = {"wandb": WandbSink}


def open_sinks(observe: ObserveConfig, folder: RunFolder) -> list[Sink]:
    """The first rank's sinks. Without a stdout (Python then has None for it) there is no terminal to write to."""
    terminal = [terminal_sink(sys.stdout)] if sys.stdout is not None else []
    return [JsonlSink(folder), *terminal, *(SINKS[name](folder) for name in observe.sinks)]
