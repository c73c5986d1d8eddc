"""Mutants of Python source: every small change of a module that this file knows, numbered in the order of the text."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as item

OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
"""What each operator becomes."""

_WORDS = {"annotation", "returns", "decorator_list", "type_params", "bases"}
"""Fields that say something about a program and aren't run, or run before any test."""

_CHECKS = {"strict", "maxsize"}
"""Arguments that change no result: they stop a wrong program, or say how much is remembered."""


@dataclass(frozen=True)
class Mutant:
    """A changed module: place and function of the change, and the text there before and after."""

    line: int
    column: int
    where: str
    before: str
    after: str
    _number: int = item(repr=False)
    _text: str = item(repr=False)

    @property
    def source(self) -> str:
        """Return the changed module."""
        tree = ast.parse(self._text)
        place, replacement = _changes(tree)[self._number]
        place.put(replacement)
        return ast.unparse(ast.fix_missing_locations(tree))


@dataclass(frozen=True)
class _Place:
    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def mutants(source: str) -> list[Mutant]:
    """Return a source's mutants in the order of its text."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    found = []
    for number, (place, replacement) in enumerate(_changes(tree)):
        node = place.node
        where = ".".join(around.name for around in functions if around.lineno <= node.lineno <= around.end_lineno)
        before, after = ast.unparse(node), ast.unparse(replacement)
        found.append(Mutant(node.lineno, node.col_offset, where, before, after, number, source))
    return found


def _changes(tree: ast.Module) -> list[tuple[_Place, ast.AST]]:
    return [(place, changed) for place in _places(tree) for changed in _alternatives(place)]


def _places(parent: ast.AST) -> Iterator[_Place]:
    for field, value in ast.iter_fields(parent):
        if field in _WORDS or isinstance(parent, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
            continue
        if isinstance(parent, ast.keyword) and parent.arg in _CHECKS:
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST) and not _is_text(node):
                yield _Place(parent, field, index, node)
                yield from _places(node)


def _is_text(node: ast.AST) -> bool:
    """Whether a node is a docstring, or another statement that is only a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _alternatives(place: _Place) -> Iterator[ast.AST]:
    node = place.node
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        yield _with(node, op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Compare):
        yield _with(node, ops=[OPERATORS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.copy_location(ast.Constant(not node.value), node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        first = isinstance(place.parent, ast.Subscript) and node.value == 0  # of one item it is the last, too
        for value in (1,) if first else (node.value + 1, node.value - 1):
            yield ast.copy_location(ast.Constant(value), node)
    if place.field == "test" and not isinstance(node, ast.Compare):
        yield ast.copy_location(ast.UnaryOp(ast.Not(), node), node)
    if isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Continue | ast.Break) or _is_store(node):
        yield ast.copy_location(ast.Pass(), node)


def _is_store(node: ast.AST) -> bool:
    """Whether a statement writes to a place that other names reach, so that without it nothing is undefined."""
    return isinstance(node, ast.Assign) and all(isinstance(to, ast.Attribute | ast.Subscript) for to in node.targets)


def _with(node: ast.AST, **fields) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
