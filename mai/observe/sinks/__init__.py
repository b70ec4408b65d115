"""Where records go."""

from mai.observe.sinks.choose_sinks import open_sinks

__all__ = ["open_sinks"]
