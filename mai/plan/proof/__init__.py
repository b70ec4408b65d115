"""Whether the calls of all ranks match: the proof."""
