"""Where records go."""

from mai.observe.sinks.choose import open_sinks

__all__ = ["open_sinks"]
