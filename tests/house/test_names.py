"""Files are short, their names say what they hold, and a package's face is quiet."""

import ast
from collections import defaultdict
from pathlib import Path

from tests.house.sources import INSTALLED, ROOT, WRITTEN, name, python_files, tree

DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80

FILES = python_files(*WRITTEN)
INSTALLED_FILES = python_files(*INSTALLED)
# mai/__init__.py is a door: its names load when touched.
PACKAGES = [path for path in INSTALLED_FILES if path.name == "__init__.py" and name(path) != "mai/__init__.py"]


def test_no_file_or_folder_is_a_drawer() -> None:
    drawers = [name(path) for path in FILES if DRAWERS.intersection(path.relative_to(ROOT).with_suffix("").parts)]
    assert not drawers, f"{drawers}: the name says nothing about what is inside"


def test_a_file_is_found_by_its_name() -> None:
    """But for the operators of GPUs, each of which has the name of the operation that it computes."""
    places = defaultdict(list)
    for path in INSTALLED_FILES:
        if path.name not in ("__init__.py", "__main__.py") and path.parent != ROOT / "mai/kernels/gpu":
            places[path.name].append(name(path))
    double = [files for files in places.values() if len(files) > 1]
    assert not double, f"{double}: name each after what it alone holds"


def test_files_are_short() -> None:
    lines = {name(path): len(path.read_text().splitlines()) for path in FILES}
    long = {file: count for file, count in lines.items() if count > MAX_FILE_LINES}
    assert not long, f"{long}: {MAX_FILE_LINES} lines is the limit; two files want out"


def test_functions_are_short() -> None:
    functions = [(path, node) for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]
    long = [f"{name(path)}:{node.lineno} {node.name}" for path, node in functions if _lines(node) > MAX_FUNCTION_LINES]
    assert not long, f"{long}: {MAX_FUNCTION_LINES} lines is the limit, 5 to 30 the aim"


def test_source_is_ascii() -> None:
    wrong = [name(path) for path in FILES if not path.read_bytes().isascii()]
    assert not wrong, f"{wrong}: write it in ASCII"


def test_a_module_says_what_it_is_for() -> None:
    silent = [name(path) for path in INSTALLED_FILES if path.stat().st_size and not ast.get_docstring(tree(path))]
    assert not silent, f"{silent}: open with a docstring"


def test_docstrings_say_what_a_thing_is_or_does() -> None:
    dangling = [
        f"{name(path)}:{node.lineno}"
        for path in INSTALLED_FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Expr) and ast.unparse(node).lstrip("'\"").startswith("Of ")
    ]
    assert not dangling, f"{dangling}: of what? Say what it is, or what it does"


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in INSTALLED_FILES}
    bare = [name(folder) for folder in folders if not (folder / "__init__.py").exists()]
    assert not bare, f"{bare}: without an __init__.py a wheel would leave the folder out"


def test_a_package_names_its_public_things_and_nothing_else() -> None:
    statements = [(path, statement) for path in PACKAGES for statement in tree(path).body]
    wrong = [f"{name(path)}:{statement.lineno}" for path, statement in statements if not _is_face(statement)]
    assert not wrong, f"{wrong}: only imports from this house, __all__, and a dict of choices"


def test_all_is_the_public_face() -> None:
    wrong = [name(path) for path in PACKAGES if set(_listed(path)) != _public(path)]
    assert not wrong, f"{wrong}: __all__ lists what the file imports and defines, no more and no less"


def _lines(function: ast.FunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def _is_face(statement: ast.stmt) -> bool:
    is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    is_own_import = isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] in INSTALLED
    is_all_or_choices = isinstance(statement, ast.Assign | ast.AnnAssign) and _target(statement).isupper()
    return is_docstring or is_own_import or is_all_or_choices or _is_all(statement)


def _is_all(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and _target(statement) == "__all__"


def _target(statement: ast.Assign | ast.AnnAssign) -> str:
    return ast.unparse(statement.targets[0] if isinstance(statement, ast.Assign) else statement.target)


def _listed(path: Path) -> list[str]:
    lists = [node.value for node in tree(path).body if isinstance(node, ast.Assign) and _is_all(node)]
    return [public for names in lists for public in ast.literal_eval(names)]


def _public(path: Path) -> set[str]:
    """What a package imports or defines; what is named inside a dict of choices is public through the dict."""
    assigned = [s for s in tree(path).body if isinstance(s, ast.Assign | ast.AnnAssign) and not _is_all(s)]
    inside = {node.id for s in assigned if s.value for node in ast.walk(s.value) if isinstance(node, ast.Name)}
    froms = [node for node in tree(path).body if isinstance(node, ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in froms for alias in node.names}
    return (imported - inside) | {_target(statement) for statement in assigned}
