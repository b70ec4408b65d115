"""Every single mutation of a Python file that could change what it does.

A mutation replaces a piece of the text, so that nothing else of the file changes. Not drawn, as nothing can notice them
or everything does: docstrings, the text of messages, what is logged or raised, type hints, decorators, imports,
`__all__`, asserts of our own invariants, and code that only type checkers read.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

TURNED = {
    ast.Lt: ">=", ast.GtE: "<", ast.Gt: "<=", ast.LtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
MOVED = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
"""By one at its border."""
OPERATORS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "//", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
ASSERTING = ("strict",)
"""Arguments that assert an invariant, as of zip."""
SPEAKERS = {"log", "logger", "logging", "warnings"}
"""Whose calls say something and do nothing."""


@dataclass(frozen=True, slots=True, order=True)
class Mutation:
    """Characters `start` to `stop` of a file become `text`."""

    start: int
    stop: int
    text: str
    line: int
    kind: str
    """In words, with what was there: "`<` turned, to `>=`"."""

    def applied_to(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.stop :]

    def is_code(self, source: str) -> bool:
        """Whether what it leaves can be compiled."""
        try:
            compile(self.applied_to(source), "mutant", "exec")
        except SyntaxError:
            return False
        return True


def mutations_of(source: str) -> list[Mutation]:
    """In the order of the file. Of some that drop something, what is left is no code (`is_code`)."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return sorted(finder.found)


@dataclass
class _Finder(ast.NodeVisitor):
    source: str
    found: list[Mutation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._starts = [0]
        for line in self.source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def _place(self, node: ast.AST) -> tuple[int, int]:
        return (
            self._starts[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]
            self._starts[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )

    def _text(self, node: ast.AST) -> str:
        start, stop = self._place(node)
        return self.source[start:stop]

    def _add(self, node: ast.AST, text: str, kind: str) -> None:
        start, stop = self._place(node)
        self.found.append(Mutation(start, stop, text, node.lineno, kind))  # type: ignore[attr-defined]

    def _between(self, left: ast.AST, right: ast.AST, operator: str, kind: str) -> None:
        """Replace what stands between two operands, whose brackets stay."""
        start, stop = self._place(left)[1], self._place(right)[0]
        gap = self.source[start:stop]
        old = gap.strip("() \n\\")
        if "#" not in gap and old:
            at = start + gap.index(old)
            self.found.append(Mutation(at, at + len(old), operator, left.lineno, kind.format(old=old)))  # type: ignore[attr-defined]

    def visit(self, node: ast.AST) -> None:
        if not _is_silent(node):
            super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        self._visit_body(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_body(node.body)

    def _visit_body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, node.comparators, strict=False):
            for table, word in ((TURNED, "turned"), (MOVED, "moved by one")):
                if new := table.get(type(operator)):
                    self._between(left, right, new, f"`{{old}}` {word}, to `{new}`")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        new = OPERATORS.get(type(node.op))
        if new and not (_is_text(node.left) or _is_text(node.right)):
            self._between(node.left, node.right, new, f"`{{old}}` became `{new}`")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "pass", "update dropped")
        if new := OPERATORS.get(type(node.op)):
            self._between(node.target, node.value, f"{new}=", f"`{{old}}` became `{new}=`")
        self.visit(node.value)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        new = "or" if isinstance(node.op, ast.And) else "and"
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, new, f"`{{old}}` became `{new}`")
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.Constant):
            self._add(test, f"(not ({self._text(test)}))", "condition negated")

    def visit_If(self, node: ast.If) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._add(node, "pass", "call dropped")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        # Not what it says.
        self._add(node, "pass", "`raise` dropped")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(node, "pass", "`continue` dropped")

    def visit_Break(self, node: ast.Break) -> None:
        self._add(node, "pass", "`break` dropped")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None or (isinstance(node.value, ast.Constant) and node.value.value in (None, True, False)):
            self.generic_visit(node)
            return
        new = f"not ({self._text(node.value)})" if isinstance(node.value, ast.Compare | ast.BoolOp) else "None"
        self._add(node.value, new, f"returned `{new.partition(' ')[0]}`")
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            new = FUNCTIONS[node.func.id]
            self._add(node.func, new, f"`{node.func.id}` became `{new}`")
        for keyword in node.keywords:
            if keyword.arg not in (None, *ASSERTING):
                self._drop(keyword, f"argument `{keyword.arg}` dropped")
        self.generic_visit(node)

    def _drop(self, node: ast.AST, kind: str) -> None:
        """With the comma behind it, or else the one before."""
        start, stop = self._place(node)
        rest = self.source[stop:]
        behind = len(rest) - len(rest.lstrip(" \n"))
        if rest[behind : behind + 1] == ",":
            stop += behind + 1
        elif (before := self.source[:start].rstrip(" \n")).endswith(","):
            start = len(before) - 1
        self.found.append(Mutation(start, stop, "", node.lineno, kind))  # type: ignore[attr-defined]

    def _drop_elements(self, node: ast.Set | ast.List | ast.Tuple) -> None:
        if isinstance(node.ctx if hasattr(node, "ctx") else ast.Load(), ast.Load) and len(node.elts) > 2:
            for element in node.elts:
                self._drop(element, f"element `{self._text(element)[:40]}` dropped")
        self.generic_visit(node)

    visit_Set = visit_List = visit_Tuple = _drop_elements

    def visit_Subscript(self, node: ast.Subscript) -> None:
        for old, new in (("0", "-1"), ("-1", "0")):
            if self._text(node.slice) == old:
                self._add(node.slice, new, f"`[{old}]` became `[{new}]`")
                self.visit(node.value)
                return
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, str(not node.value), f"`{node.value}` became `{not node.value}`")
        elif isinstance(node.value, int | float):
            new = repr(node.value + 1 if isinstance(node.value, int) or node.value == 0 else 2 * node.value)
            self._add(node, new, f"`{self._text(node)}` became `{new}`")


def _is_silent(node: ast.AST) -> bool:
    """Whether nothing below could change what the program does."""
    checks: list[Callable[[ast.AST], bool]] = [_is_docstring, _speaks, _is_for_type_checkers, _names_the_face]
    ignored = ast.Import | ast.ImportFrom | ast.Assert | ast.JoinedStr
    is_asserting = isinstance(node, ast.keyword) and node.arg in ASSERTING
    return isinstance(node, ignored) or is_asserting or any(check(node) for check in checks)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _speaks(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    return next(_roots(node.value.func), "") in SPEAKERS


def _roots(node: ast.AST) -> Iterator[str]:
    """`log` of log.info."""
    while isinstance(node, ast.Attribute):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def _is_for_type_checkers(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("TypeVar", "cast")


def _names_the_face(node: ast.AST) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
