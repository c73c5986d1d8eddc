"""Merge chains of views and drop those that move nothing.

- A Transpose that only moves dimensions of size 1 is a Reshape.
- A Reshape of a Reshape, and a Transpose of a Transpose, reads the first one's input.
- A Reshape to the same shape, and a Transpose in order, disappears.
"""

from __future__ import annotations

from dataclasses import replace

from hwq.ir import Graph, Op, Reshape, Transpose
from hwq.passes.edit import captured_names, rebuilt, renamed


def fuse_views(graph: Graph) -> Graph:
    """Return `graph` with as few views as possible; every tensor that is left holds what it held."""
    merged: dict[str, Op] = {}
    ops: list[Op] = []
    for op in graph.ops:
        op = _merged(graph, _as_reshape(graph, op), merged)
        merged[op.outputs[0]] = op
        ops.append(op)
    # Inner views that only merged ones read go first: dropping an identity needs to know who else is left.
    return _without_identities(rebuilt(graph, ops))


def _as_reshape(graph: Graph, op: Op) -> Op:
    if not isinstance(op, Transpose):
        return op
    shape = graph.tensors[op.inputs[0]].shape
    moved = [axis for axis in op.perm if shape[axis] > 1]
    if moved != sorted(moved):
        return op
    return Reshape(name=op.name, inputs=op.inputs, outputs=op.outputs)


def _merged(graph: Graph, op: Op, views: dict[str, Op]) -> Op:
    inner = views.get(op.inputs[0]) if op.inputs else None
    if isinstance(op, Reshape) and isinstance(inner, Reshape):
        return replace(op, inputs=inner.inputs)
    if isinstance(op, Transpose) and isinstance(inner, Transpose):
        perm = tuple(inner.perm[axis] for axis in op.perm)
        return _as_reshape(graph, replace(op, inputs=inner.inputs, perm=perm))
    return op


def _is_identity(graph: Graph, op: Op) -> bool:
    x, y = graph.tensors[op.inputs[0]] if op.inputs else None, graph.tensors[op.outputs[0]]
    return isinstance(op, Reshape) and x is not None and x.shape == y.shape


def _without_identities(graph: Graph) -> Graph:
    fixed = {*graph.inputs, *graph.constants, *graph.outputs, *captured_names(graph)}
    names: dict[str, str] = {}
    kept: list[Op] = []
    for op in graph.ops:
        if not _is_identity(graph, op):
            kept.append(op)
            continue
        x, y = names.get(op.inputs[0], op.inputs[0]), op.outputs[0]
        if y not in fixed:
            names[y] = x
        elif x not in fixed:  # what the user reads keeps its name: its producer writes it directly
            names = {name: y if target == x else target for name, target in names.items()} | {x: y}
            fixed.add(y)
        else:
            kept.append(op)
    return rebuilt(graph, [renamed(op, names) for op in kept])
