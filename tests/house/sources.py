"""The repository's own Python files, read as syntax trees; nothing is imported."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTALLED = ("mai", "launch", "recipes")
WRITTEN = (*INSTALLED, "tests", "benchmarks")


def python_files(*folders: str) -> list[Path]:
    """Every .py file below these folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    """How a test calls a file: its path from the repository's root."""
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    """`recipe` for mai/recipe/knobs.py, `cli` for mai/cli.py, `launch` for launch/local.py."""
    top, *rest = path.relative_to(ROOT).parts
    return rest[0].removesuffix(".py") if top == "mai" else top


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_names(node: ast.AST) -> list[str]:
    """The dotted names that one import statement brings; none for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
    return []


def imports(path: Path) -> list[str]:
    """Every dotted name that a file imports, wherever the statement stands."""
    return [name for node in ast.walk(tree(path)) for name in imported_names(node)]


def dotted(node: ast.AST) -> str:
    """`torch.load` for the expression torch.load; empty for anything that is not names joined by dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and dotted(node.value):
        return f"{dotted(node.value)}.{node.attr}"
    return ""
