"""What computes: versions of the libraries, and the commit of this code."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_LIBRARIES = ("mai", "torch", "megatron-core", "numpy", "tokenizers", "pydantic")


def versions() -> dict[str, str | None]:
    """Versions of everything that computes, and of this code's commit where it runs from a clone."""
    found: dict[str, str | None] = {name: _version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **found}


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The clone's commit, with "+changes" when the tree differs from it; None outside a clone."""
    clone = Path(__file__).parents[2]
    if not (clone / ".git").exists():
        return None
    try:
        revision = _git(clone, "rev-parse", "HEAD")
        return revision + ("+changes" if _git(clone, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
