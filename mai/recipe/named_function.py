"""A field that names a function of the user's own, as path/to/file.py:function."""

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mai.errors import RecipeError
from mai.recipe.source_file import blaming, imported, parse


def load_function(text: str, *, knob: str) -> Callable[..., Any]:
    """The function, whose file is imported once; RecipeError with the field, file, line and reason."""
    file, name = _file_and_name(text)
    with _naming(text, knob=knob):
        check_function(text)
        with blaming(file):
            return vars(imported(file))[name]  # type: ignore[no-any-return]


def call_function(text: str, *arguments: Any, knob: str) -> Any:
    """What the function gives; whatever it raises becomes a RecipeError with the field, file, line and reason."""
    function = load_function(text, knob=knob)
    with _naming(text, knob=knob), blaming(_file_and_name(text)[0]):
        return function(*arguments)


def check_function(text: str) -> None:
    """RecipeError unless the file has such a function at its top level; nothing is imported."""
    file, name = _file_and_name(text)
    if file.suffix != ".py" or not name:
        raise RecipeError("write path/to/file.py:function")
    there = [node.name for node in parse(file).body if isinstance(node, ast.FunctionDef)]
    if name not in there:
        public = [other for other in there if not other.startswith("_")]
        near = get_close_matches(name, there, n=3) or public
        has = f"it has {', '.join(near)}" if near else "it has no function at its top level"
        raise RecipeError(f"{file}: has no {name}; {has}")


@contextmanager
def _naming(text: str, *, knob: str) -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        raise RecipeError(*(f"{knob}={text}: {reason}" for reason in error.violations)) from error


def _file_and_name(text: str) -> tuple[Path, str]:
    path, _, name = text.rpartition(":")
    return Path(path).expanduser(), name
