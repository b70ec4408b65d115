"""A Python file of the user's own: read as a syntax tree, or imported; whatever is wrong is told with file and line."""

import ast
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

from mai.errors import MaiError, RecipeError
from mai.recipe.explain import explain, is_about_a_recipe


def parse(file: Path) -> ast.Module:
    """The file's syntax tree; RecipeError where there is none."""
    try:
        return ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        raise RecipeError(f"{file}:{error.lineno or 1}: {error.msg}") from None
    except OSError as error:
        raise RecipeError(f"{file}: {error.strerror}; write path/to/file.py:function") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{file}: not Python: {error}") from None


def import_file(file: Path) -> ModuleType:
    """Execute the file and keep it as a module of its own, however many files have its name."""
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pydantic look their own module up by name.
    sys.modules[name] = module
    try:
        with _neighbours(file.resolve().parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Let a file import those beside it, as a script may; and let another folder's of the same name be another one."""
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in sys.modules.keys() - known:
            place = getattr(sys.modules[name], "__file__", None)
            if place is not None and Path(place).is_relative_to(folder):
                del sys.modules[name]


def imported(file: Path) -> ModuleType:
    """The module of this file, executed once in a process: some things, such as torch's own operators, register
    themselves by name and must not do so twice."""
    return sys.modules.get(_module_name(file)) or import_file(file)


def _module_name(file: Path) -> str:
    return f"recipe_file_{file.stem}_{zlib.crc32(str(file.resolve()).encode(errors='surrogateescape')):08x}"


@contextmanager
def blaming(file: Path) -> Iterator[None]:
    """Turn whatever the code of a file raises into a RecipeError that names its line and the reason; what it prints
    goes to stderr, as stdout is for answers."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _is_same(frame.filename, file)]
        place = f"{file}:{lines[-1]}" if lines else str(file)
        raise RecipeError(*(f"{place}: {reason}" for reason in _reasons(error))) from error


def _is_same(filename: str, file: Path) -> bool:
    return Path(filename).resolve() == file.resolve()


def _reasons(error: BaseException) -> list[str]:
    if isinstance(error, ValidationError) and is_about_a_recipe(error):
        return [breach.message for breach in explain(error, {})]
    if isinstance(error, RecipeError):
        return list(error.violations)
    if isinstance(error, MaiError):
        return [str(error)]
    return [f"{type(error).__name__}: {error}"]
