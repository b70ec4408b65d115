"""Which format a file is read as, by its suffix."""

from collections.abc import Mapping
from pathlib import Path

from mai.data.formats import json_lines, whole_file
from mai.data.formats.piece import Format

FORMATS: tuple[Format, ...] = (whole_file, json_lines)
"""To read another kind of file, write its module beside these and name it here."""

_BY_SUFFIX: Mapping[str, Format] = {suffix: known for known in FORMATS for suffix in known.SUFFIXES}

SUFFIXES = frozenset(_BY_SUFFIX)
"""What is read of a folder."""


def format_of(path: Path) -> Format:
    """A file of a suffix that no format knows is one text."""
    return _BY_SUFFIX.get(path.suffix.lower(), whole_file)
