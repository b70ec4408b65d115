"""The published schema of what `mai plan --json` prints, and the name under which every output says that it follows it.

Written by hand, beside the plain values that it describes: its descriptions are the documentation of the output, and
tests hold both together.
"""

from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).parent / "plan-1.json"
"""JSON Schema, draft 2020-12, of this major version; docs/guides/schedulers.md says what a version promises."""

SCHEMA: Mapping[str, str | int] = {"name": "mai-plan", "major": 1, "minor": 1}
