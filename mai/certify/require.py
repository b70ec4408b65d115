"""Who may train: what `mai train --require-certificate` asks. Megatron-Core is not needed for that, and not loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mai.certify.subject import code, differing, fingerprint, subject
from mai.errors import RefusedError
from mai.recipe import Recipe
from mai.run_folder import naming_storage_errors
from mai.run_folder.disk import parsed_object

FORMAT_VERSION = 1


def default_path(recipe: Recipe) -> Path:
    """Every layout of a recipe has a certificate of its own."""
    return Path("certificates") / recipe.name / fingerprint(subject(recipe))[:12] / "certificate.json"


def require(recipe: Recipe, *, command: str) -> None:
    """RefusedError unless there is a valid certificate of this recipe's layout, from this code.

    Args:
        command: what makes one, as one would type it."""
    path = default_path(recipe)
    hindrances = _hindrances(recipe, read(path))
    if hindrances:
        reasons = "\n".join(f"{path}: {hindrance}" for hindrance in hindrances)
        raise RefusedError(f"{reasons}\nno valid certificate of this layout; make one with: {command}")


def read(path: Path) -> dict[str, Any] | None:
    """What the file holds; None where there is no file, nothing where it is no certificate."""
    with naming_storage_errors(path):
        text = path.read_text("utf-8", errors="replace") if path.is_file() else None
    if text is None:
        return None
    found = parsed_object(text) or {}
    digest = found.pop("digest", None)
    return found if digest == fingerprint(found) else {}


def _hindrances(recipe: Recipe, found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["there is none", *_others(recipe)]
    if found.get("format_version") != FORMAT_VERSION:
        return ["is damaged, was changed after it was written, or is of another format"]
    if found["certified"] != subject(recipe):
        return [f"is of another recipe: {difference}" for difference in differing(found["certified"], subject(recipe))]
    if found["passed"] is not True:
        return ["says that this layout does not compute what one rank computes"]
    return [f"is of other code: {difference}" for difference in differing(found["code"], code())]


def _others(recipe: Recipe) -> list[str]:
    """How the recipe differs from the one among its certified versions that is most alike."""
    folder = default_path(recipe).parents[1]
    others = [found for path in folder.glob("*/certificate.json") if (found := read(path))]
    differences = [differing(other["certified"], subject(recipe)) for other in others]
    return [f"the nearest has {difference}" for difference in min(differences, key=len, default=[])]
