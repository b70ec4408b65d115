"""Lets `megatron.core` 0.16 run on a CPU: an import hook that rewrites its CUDA idioms, and nothing else.

Megatron-Core names CUDA in some 500 places, most inside functions where nothing can be passed in. Instead of patching
torch for the whole process, which would also hide device mistakes of our own, modules below `megatron.core` are
compiled from a rewritten syntax tree. The rules:

    torch.cuda.X                     mai.engine.cpu_namespace.X
    "cuda", "cuda:0"                 "cpu"
    "torch.cuda.FloatTensor"         "torch.FloatTensor"
    tensor.cuda(...)                 tensor.cpu()
    tensor.is_cuda                   tensor.is_cpu        (meaning: is on the device)
    tensor.record_stream(...)        None
    from torch.cuda import X         from mai.engine.cpu_namespace import X
    f(..., pin_memory=True)          f(...)
    torch.distributed.all_gather     mai.engine.cpu_namespace.all_gather, and reduce_scatter: gloo refuses parts of
                                     different lengths, which the tokens of experts are

`rewrites` lists what the rules touch in a source; tests/golden/cpu_inventory.json holds the list for every module that
training imports, and a test fails when it changes. A run on CUDA never loads this. It goes when Megatron-Core takes
its device as an argument.
"""

import ast
import hashlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType

_PACKAGE = "megatron.core"
_NAMESPACE = "mai.engine.cpu_namespace"
_ALIAS = "_mai_cpu_namespace"
_CACHE_TAG = ".mai_cpu_" + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8] + ".pyc"


@dataclass(frozen=True, slots=True, order=True)
class Rewrite:
    """One place that the adapter touches: `what` of `function` in a module."""

    function: str
    what: str


class _Rewriter(ast.NodeTransformer):
    def __init__(self) -> None:
        self.rewrites: list[Rewrite] = []
        self._scope: list[str] = []

    def _note(self, what: str) -> None:
        self.rewrites.append(Rewrite(".".join(self._scope) or "<module>", what))

    def _visit_scope(self, node: ast.AST, name: str) -> ast.AST:
        self._scope.append(name)
        self.generic_visit(node)
        self._scope.pop()
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._visit_scope(node, node.name)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._visit_scope(node, node.name)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Attribute) and _is_torch_cuda(node.value):
            self._note(f"torch.cuda.{node.attr}")
            node.value = ast.copy_location(ast.Name(_ALIAS, ast.Load()), node.value)
            return node
        if _is_uneven_collective(node):
            self._note(f"torch.distributed.{node.attr}")
            node.value = ast.copy_location(ast.Name(_ALIAS, ast.Load()), node.value)
            return node
        if _is_torch_cuda(node):
            self._note("torch.cuda")
            return ast.copy_location(ast.Name(_ALIAS, ast.Load()), node)
        self.generic_visit(node)
        if node.attr == "is_cuda":
            self._note("is_cuda")
            node.attr = "is_cpu"
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "record_stream":
            self._note("record_stream()")
            return ast.copy_location(ast.Constant(None), node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            self._note("cuda()")
            node.func.attr, node.args, node.keywords = "cpu", [], []
        kept = [k for k in node.keywords if not (k.arg == "pin_memory" and isinstance(k.value, ast.Constant))]
        if len(kept) < len(node.keywords):
            self._note("pin_memory=")
            node.keywords = kept
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            replacement = _cpu_word(node.value)
            if replacement != node.value:
                self._note(repr(node.value))
                node.value = replacement
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.level == 0 and node.module == "torch.cuda":
            self._note("from torch.cuda import")
            node.module = _NAMESPACE
        return node


def _is_torch_cuda(node: ast.Attribute) -> bool:
    return node.attr == "cuda" and isinstance(node.value, ast.Name) and node.value.id == "torch"


def _is_uneven_collective(node: ast.Attribute) -> bool:
    return node.attr in ("all_gather", "reduce_scatter") and ast.unparse(node.value) == "torch.distributed"


def _cpu_word(text: str) -> str:
    if text == "cuda" or (text.startswith("cuda:") and text[5:].isdigit()):
        return "cpu"
    if text.startswith("torch.cuda.") and text.endswith("Tensor") and " " not in text:
        return "torch." + text.removeprefix("torch.cuda.")
    return text


def _rewritten(source: bytes, path: str) -> tuple[ast.Module, list[Rewrite]]:
    tree = ast.parse(source, path)
    rewriter = _Rewriter()
    rewriter.visit(tree)
    # The import goes behind the docstring and `from __future__`, which must come first.
    position = next((i for i, statement in enumerate(tree.body) if not _must_come_first(statement)), 0)
    tree.body.insert(position, ast.Import([ast.alias(_NAMESPACE, _ALIAS)]))
    return ast.fix_missing_locations(tree), rewriter.rewrites


def _must_come_first(statement: ast.stmt) -> bool:
    is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_docstring or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")


def rewrites(source: bytes) -> list[Rewrite]:
    """Every place of a module's source that the rules touch, in order of appearance."""
    return _rewritten(source, "<source>")[1] if b"cuda" in source else []


class _Loader(importlib.machinery.SourceFileLoader):
    """Python's own loader with its own bytecode files, so that neither the rewriting nor the cache meets the other."""

    def source_to_code(self, data, path, *, _optimize=-1) -> CodeType:  # type: ignore[no-untyped-def, override]
        if b"cuda" not in data:
            return super().source_to_code(data, path)
        tree, _ = _rewritten(bytes(data), str(path))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_data(self, path: str) -> bytes:
        return super().get_data(_own_cache(path))

    def set_data(self, path: str, data: bytes, *, _mode: int = 0o666) -> None:  # type: ignore[override]
        super().set_data(_own_cache(path), data, _mode=_mode)

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if module.__name__ == "megatron.core.jit":
            # megatron/core/jit.py compiles small functions with torch.compile, which has no use here and pulls in
            # the whole compiler: 3 seconds of start-up for every run.
            module.disable_jit_fuser()


def _own_cache(path: str) -> str:
    return path.removesuffix(".pyc") + _CACHE_TAG if path.endswith(".pyc") else path


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _PACKAGE and not fullname.startswith(_PACKAGE + "."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def is_installed() -> bool:
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def install() -> None:
    """Put the hook in front of Python's importers; a second call does nothing."""
    if is_installed():
        return
    if any(name == _PACKAGE or name.startswith(_PACKAGE + ".") for name in sys.modules):
        raise RuntimeError("the CPU adapter must be installed before megatron.core is imported")
    sys.meta_path.insert(0, _Finder())


def inventory() -> dict[str, list[Rewrite]]:
    """What the adapter touches in every module of Megatron-Core that this process has imported, by module name."""
    touched = {}
    for name in sorted(sys.modules):
        if name == _PACKAGE or name.startswith(_PACKAGE + "."):
            spec = importlib.util.find_spec(name)
            if spec is not None and isinstance(spec.loader, _Loader):
                touched[name] = sorted(rewrites(spec.loader.get_data(spec.loader.path)))
    return {name: places for name, places in touched.items() if places}
