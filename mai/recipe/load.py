"""A recipe by name, from `file.py:function`, or from a run folder's `recipe.json`.

A recipe is a function at the top level of its file, annotated `-> Recipe`, that needs no arguments. Names are found by
reading the syntax trees of the package `recipes`, so that only the file asked for is imported, and a mistake in
another one hinders nobody.
"""

import ast
import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import ModuleType

from pydantic import TypeAdapter, ValidationError

from mai.errors import RecipeError
from mai.recipe.explain import explain
from mai.recipe.recipe import Recipe
from mai.recipe.source_file import blaming, import_file, parse

_PACKAGE = "recipes"
_WAYS_TO_NAME = "write path/to/file.py:function, or a name that `mai recipes` lists"


@dataclass(frozen=True, slots=True)
class _Found:
    """One recipe of the package, as its source tells."""

    name: str
    module: str
    file: Path
    line: int
    summary: str


def names() -> Mapping[str, str]:
    """Every recipe that has a bare name, with its one-line summary."""
    found, broken = _search()
    double = [_double(name, found) for name in found if len(found[name]) > 1]
    if broken or double:
        raise RecipeError(*broken, *double)
    return {name: found[name][0].summary for name in sorted(found)}


def find(name: str) -> Callable[[], Recipe]:
    """The recipe called `name`, that of `path/to/file.py:function`, or of `run/recipe.json`; call what comes back to
    build it.

    Finding imports the file, building calls the function; both raise RecipeError with the file, the line and the
    reason when they fail.
    """
    if name.endswith(".json"):
        return partial(_from_recipe_json, Path(name).expanduser())
    if (Path(name).expanduser() / "recipe.json").is_file():
        raise RecipeError(f"{name}: is a run folder; its recipe is {Path(name) / 'recipe.json'}")
    if ":" in name or "/" in name or name.endswith(".py"):
        return _from_file(name)
    if "=" in name:
        raise RecipeError(f"{name}: name the recipe first, then path=value; `mai recipes` lists the names")
    found, broken = _search()
    if name not in found:
        near = get_close_matches(name, found, n=3)
        wanted = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(found))}."
        raise RecipeError(f"{name}: no such recipe; {wanted} Your own would be path/to/file.py:function", *broken)
    if len(found[name]) > 1:
        raise RecipeError(_double(name, found))
    (entry,) = found[name]
    with blaming(entry.file):
        module = importlib.import_module(entry.module)
    return _builder(module, name, entry.file)


def from_json(text: str) -> Recipe:
    """The recipe whose `to_dict` was written as JSON; rules between fields are not looked at."""
    try:
        json.loads(text)
        return TypeAdapter(Recipe).validate_json(text)
    except ValidationError as error:
        raise RecipeError(*(breach.message for breach in explain(error, {}))) from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"recipe.json is not JSON: {error}") from None


def _from_recipe_json(path: Path) -> Recipe:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error}); name the recipe.json of a run folder") from None
    return from_json(text)


def _search() -> tuple[dict[str, list[_Found]], list[str]]:
    """The package's recipes by name, and what is wrong with the files that cannot be read."""
    found: dict[str, list[_Found]] = {}
    broken: list[str] = []
    for module, file in _recipe_files():
        try:
            tree = parse(file)
        except RecipeError as error:
            broken += error.violations
            continue
        for function in _recipe_functions(tree):
            summary = _first_line(function) or _first_line(tree)
            found.setdefault(function.name, []).append(_Found(function.name, module, file, function.lineno, summary))
    return found, broken


def _recipe_files() -> Iterator[tuple[str, Path]]:
    """Module name and path of every file of the package whose name has no leading underscore."""
    package = importlib.util.find_spec(_PACKAGE)
    for folder in (package and package.submodule_search_locations) or ():
        for file in sorted(Path(folder).rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            if not any(part.startswith(("_", ".")) for part in parts):
                yield ".".join((_PACKAGE, *parts)), file


def _recipe_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return [function for function in functions if _returns_recipe(function) and not _needs_arguments(function.args)]


def _returns_recipe(function: ast.FunctionDef) -> bool:
    return function.returns is not None and ast.unparse(function.returns).strip("'\"").split(".")[-1] == "Recipe"


def _needs_arguments(arguments: ast.arguments) -> bool:
    num_positional = len(arguments.posonlyargs) + len(arguments.args)
    return num_positional > len(arguments.defaults) or None in arguments.kw_defaults


def _first_line(node: ast.FunctionDef | ast.Module) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _double(name: str, found: Mapping[str, list[_Found]]) -> str:
    places = " and ".join(f"{entry.file}:{entry.line}" for entry in found[name])
    return f"{name}: two recipes have this name, {places}; rename one"


def _from_file(name: str) -> Callable[[], Recipe]:
    path, _, function = name.rpartition(":") if ":" in name else (name, "", "")
    file = Path(path).expanduser()
    if file.suffix != ".py":
        raise RecipeError(f"{name}: not a Python file; {_WAYS_TO_NAME}")
    choices = [node.name for node in _recipe_functions(parse(file))]
    if not function:
        example = choices[0] if choices else "function"
        raise RecipeError(f"{name}: says no function; write {file}:{example}{_also(choices[1:])}")
    with blaming(file):
        module = import_file(file)
    if function not in vars(module):
        near = ", ".join(get_close_matches(function, choices, n=3) or choices)
        has = f"it has {near}" if near else "it has no function that is annotated `-> Recipe` and needs no arguments"
        raise RecipeError(f"{file}: has no {function}; {has}")
    return _builder(module, function, file)


def _also(choices: list[str]) -> str:
    return f" (or {', '.join(choices)})" if choices else ""


def _builder(module: ModuleType, name: str, file: Path) -> Callable[[], Recipe]:
    function = vars(module)[name]
    if not inspect.isfunction(function):
        raise RecipeError(f"{file}: {name} is of type {type(function).__name__}, not a function that returns a Recipe")
    place = f"{file}:{function.__code__.co_firstlineno}"
    required = [parameter.name for parameter in _required(function)]
    if required:
        raise RecipeError(f"{place}: {name} needs {', '.join(required)}; a recipe needs no arguments, give defaults")

    def build() -> Recipe:
        with blaming(file):
            recipe = function()
        if not isinstance(recipe, Recipe):
            raise RecipeError(f"{place}: {name} returned {type(recipe).__name__}, not a Recipe")
        return recipe

    return build


def _required(function: Callable[..., object]) -> list[inspect.Parameter]:
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [each for each in parameters if each.default is inspect.Parameter.empty and each.kind not in many]
