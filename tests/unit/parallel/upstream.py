"""Pure pieces of Megatron-Core, cut out of its files: importing it takes seconds and torch, and on a CPU mai/engine's
adapter first."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType


def source(path: str) -> str:
    """The text of a file of megatron.core."""
    spec = importlib.util.find_spec("megatron")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(*spec.submodule_search_locations, "core", path).read_text()


def cut_out(names: dict[str, set[str]], *, imports: str, folder: Path) -> ModuleType:
    """A module of these classes and functions only: `names` by file; `imports` is what they need."""
    nodes = [node for path, wanted in names.items() for node in _top_level(path) if getattr(node, "name", "") in wanted]
    assert len(nodes) == sum(map(len, names.values())), f"Megatron-Core has no longer all of {names}"
    file = folder / "megatron_piece.py"
    file.write_text("\n".join([imports, *map(ast.unparse, nodes)]))
    spec = importlib.util.spec_from_file_location("megatron_piece", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _top_level(path: str) -> list[ast.stmt]:
    return ast.parse(source(path)).body
