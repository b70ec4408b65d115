"""The names of TOML files that ship with mai, a hint where one is misspelt, and files of the user's own beside them."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mai.errors import PlanError
from mai.hardware.toml_file import read_table


def check_name(name: str, what: str, names: Sequence[str], *, hint: str = "") -> None:
    """Raises PlanError, with the names there are, when this is none of them."""
    if name not in names:
        near = get_close_matches(name, names)
        guess = f"did you mean {near[0]}? There are" if near else "there are"
        raise PlanError(f"{name}: no such {what}; {guess} {', '.join(names)}{hint}")


def names_in(folder: Path) -> list[str]:
    """The names of the TOML files there, without their suffix."""
    return sorted(file.stem for file in folder.glob("*.toml"))


def read_named(name_or_path: str | Path, what: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that ships under this name in the folder, or the user's own, and all that it says.

    Raises PlanError where there is no such file, or it is no TOML.
    """
    file = Path(name_or_path)
    if isinstance(name_or_path, str) and file.suffix != ".toml" and "/" not in name_or_path:
        check_name(name_or_path, what, names_in(folder), hint=f". Your own is path/to/{what}.toml")
        file = folder / f"{name_or_path}.toml"
    try:
        return file, read_table(file)
    except OSError as error:
        shipped = ", ".join(names_in(folder))
        raise PlanError(f"{file}: {error.strerror}; name your own {what}.toml, or one of {shipped}") from None
