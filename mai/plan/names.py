"""The names of what ships with the planner, and a hint where one is misspelt."""

from collections.abc import Sequence
from difflib import get_close_matches

from mai.errors import PlanError


def check_name(name: str, what: str, names: Sequence[str], *, hint: str = "") -> None:
    """Raises PlanError, with the names there are, when this is none of them."""
    if name not in names:
        near = get_close_matches(name, names, n=1)
        guess = f"did you mean {near[0]}? There are" if near else "there are"
        raise PlanError(f"{name}: no such {what}; {guess} {', '.join(names)}{hint}")
