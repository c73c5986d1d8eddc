"""Bring tables next to the layers that can carry them.

- A Table of a Table is one Table.
- Table(Reshape(x)) is Reshape(Table(x)), and Table(Transpose(x)) is Transpose(Table(x)), where x comes from a layer
  whose output path can hold the table.

Both only where nobody else reads what lies between.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from hwq.ir import Graph, Op, Reshape, Table, Tensor, Transpose
from hwq.passes.edit import captured_names, fresh_name, rebuilt
from hwq.tables import carries_table


def fuse_tables(graph: Graph) -> Graph:
    """Return `graph` with as few tables as these rules leave, each as near to a layer as it can be."""
    fuse = _Fuse(graph)
    for op in graph.ops:
        fuse.add(op)
    return rebuilt(graph, fuse.ops, fuse.tensors)


class _Fuse:
    def __init__(self, graph: Graph):
        self._graph = graph
        self._kept = {*graph.outputs, *captured_names(graph)}
        self._readers = Counter(name for op in graph.ops for name in op.inputs)
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []
        self._makers: dict[str, Op] = {}

    def add(self, op: Op) -> None:
        """Append `op`, a Table where it belongs."""
        if isinstance(op, Table):
            inner = self._private(op.inputs[0])
            if isinstance(inner, Table):
                op = _composed(inner, op, self._tensor(inner.outputs[0]).range[0])
            else:
                op = self._past_views(op)
        self._append(op)

    def _append(self, op: Op) -> None:
        self.ops.append(op)
        self._makers |= dict.fromkeys(op.outputs, op)

    def _private(self, name: str) -> Op | None:
        """Return the operator that makes `name` for a single reader."""
        alone = self._readers[name] == 1 and name not in self._kept
        return self._makers.get(name) if alone else None

    def _past_views(self, table: Table) -> Op:
        """Return what makes the table's output now: the last of the views it was moved past, or the table itself."""
        views: list[Op] = []
        name = table.inputs[0]
        while isinstance(view := self._private(name), Reshape | Transpose):
            views.append(view)
            name = view.inputs[0]
        layer = self._private(name)
        if not views or layer is None or not (carries_table(layer) or isinstance(layer, Table)):
            return table
        y = self._tensor(table.outputs[0])
        moved = self._like(y, self._tensor(name))
        self.add(replace(table, inputs=(name,), outputs=(moved,)))
        for view in reversed(views[1:]):
            made = self._like(y, self._tensor(view.outputs[0]))
            self._append(replace(view, inputs=(moved,), outputs=(made,)))
            moved = made
        return replace(views[0], inputs=(moved,), outputs=table.outputs)

    def _like(self, y: Tensor, shaped: Tensor) -> str:
        """Declare a tensor with the values of `y` and the shape of another; return its name."""
        name = fresh_name(self._graph, self.tensors, f"{shaped.name}/table")
        self.tensors[name] = replace(y, name=name, shape=shaped.shape)
        self._readers[name] = 1
        return name

    def _tensor(self, name: str) -> Tensor:
        return self.tensors[name] if name in self.tensors else self._graph.tensors[name]


def _composed(inner: Table, outer: Table, least: int) -> Table:
    """Return `outer` of `inner`, whose values begin at `least`."""
    table = outer.table[inner.table.astype(np.int16) - least]
    nodes, constants = list(inner.nodes), dict(inner.constants)
    count = len(inner.nodes) + len(outer.nodes)
    names = {"x": f"u{count}", "y": "y", "": ""}
    nodes = [_renamed(node, {"y": names["x"]}) for node in nodes]
    for key, value in outer.constants.items():
        names[key] = f"{key}.{count}"
        constants[names[key]] = value
    for node in outer.nodes:
        for made in node.output:
            names.setdefault(made, f"{made}.{count}")
        nodes.append(_renamed(node, names))
    name = f"{inner.name}+{outer.name}"
    return replace(outer, name=name, inputs=inner.inputs, table=table, nodes=tuple(nodes), constants=constants)


def _renamed(node: Any, names: dict[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for field in (copy.input, copy.output):
        for position, name in enumerate(field):
            field[position] = names.get(name, name)
    return copy
