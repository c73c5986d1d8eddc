"""What passes share: making a new graph from changed operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from hwq.ir import Graph, HostNode, Op, Tensor


def rebuilt(graph: Graph, ops: Sequence[Op], tensors: Mapping[str, Tensor] | None = None) -> Graph:
    """Return `graph` with other operators, less those nobody needs and the tensors and constants nobody reads.

    Parameters
    ----------
    graph : Graph
        Left as it is.
    ops : sequence of Op
        In topological order.
    tensors : mapping of str to Tensor, optional
        Tensors the new operators add.
    """
    needed = set(graph.outputs)
    live: list[Op] = []
    for op in reversed(ops):
        if needed.intersection(op.outputs):
            live.append(op)
            needed.update(op.inputs)
    live.reverse()
    used = {*graph.inputs, *graph.outputs, *(name for op in live for name in (*op.inputs, *op.outputs))}
    known = {**graph.tensors, **(tensors or {})}
    return replace(
        graph,
        inputs=list(graph.inputs),
        outputs=list(graph.outputs),
        tensors={name: tensor for name, tensor in known.items() if name in used},
        constants={name: value for name, value in graph.constants.items() if name in used},
        ops=live,
        opset=dict(graph.opset),
        rewrites=list(graph.rewrites),
    )


def renamed(op: Op, names: Mapping[str, str]) -> Op:
    """Return `op` reading and writing the tensors `names` maps its own to."""
    if not any(name in names for name in (*op.inputs, *op.outputs)):
        return op
    inputs = tuple(names.get(name, name) for name in op.inputs)
    outputs = tuple(names.get(name, name) for name in op.outputs)
    if not isinstance(op, HostNode):
        return replace(op, inputs=inputs, outputs=outputs)
    node = onnx.NodeProto()
    node.CopyFrom(op.node)
    for field in (node.input, node.output):
        for position, name in enumerate(field):
            field[position] = names.get(name, name)
    return replace(op, inputs=inputs, outputs=outputs, node=node)


def fresh_name(graph: Graph, tensors: Mapping[str, Tensor], base: str) -> str:
    """Return `base`, or `base` with the first number that makes it unused."""
    name, count = base, 1
    while name in graph.tensors or name in tensors:
        count += 1
        name = f"{base}_{count}"
    return name


def captured_names(graph: Graph) -> set[str]:
    """Return the tensors that control-flow bodies read by name, which no pass may rename."""
    return {name for op in graph.ops if isinstance(op, HostNode) for name in op.inputs if name not in op.node.input}
