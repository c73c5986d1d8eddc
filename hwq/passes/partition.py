"""Cut a graph into parts that run on the host and parts that run on the array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from hwq.ir import Graph, HostNode, Op, Reshape, Transpose
from hwq.onnx_writer import boundary, write_subgraph

OnArray = Callable[[Op], str | None]
"""Tells why the array can't run an operator, or None if it can."""


@dataclass(frozen=True, eq=False)
class HostPart:
    """Operators ONNX Runtime runs, as one model.

    Members
    -------
    model : onnx.ModelProto
        Its inputs and outputs are `inputs` and `outputs`.
    inputs, outputs : tuple of str
        Tensors of the graph.
    ops : tuple of Op
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...]


@dataclass(frozen=True, eq=False)
class ArrayPart:
    """Operators the array runs as one program; `inputs` and `outputs` are tensors of the graph."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...]


Part = HostPart | ArrayPart


def partition(graph: Graph, on_array: OnArray) -> list[Part]:
    """Split `graph` into parts that alternate between host and array, in an order that can run, as few as possible.

    Views (Reshape, Transpose) go where their neighbours are, and to the host where both neighbours or a whole array
    part would be nothing but views. A part takes every operator that is ready on its side, which makes the number of
    parts minimal for either side to begin with; the better beginning is chosen.

    Parameters
    ----------
    graph : Graph
    on_array : callable
        Given an operator other than a HostNode, returns None if the array can run it, else the reason.
    """
    host = _host_side(graph, on_array)
    while True:
        parts = min((_schedule(graph, host, first) for first in (True, False)), key=len)
        idle = [ops for is_host, ops in parts if not is_host and all(_is_view(op) for op in ops)]
        if not idle:
            return [_part(graph, is_host, ops) for is_host, ops in parts]
        host |= {id(op) for ops in idle for op in ops}


def _is_view(op: Op) -> bool:
    return isinstance(op, Reshape | Transpose)


def _host_side(graph: Graph, on_array: OnArray) -> set[int]:
    """Return the identities of the operators that run on the host."""
    host = {id(op) for op in graph.ops if isinstance(op, HostNode) or on_array(op) is not None}
    # A view belongs to the array if, past other views, it reads from the array or something on the array reads it.
    fed: set[str] = set()
    for op in graph.ops:
        if id(op) not in host and (not _is_view(op) or fed.intersection(op.inputs)):
            fed.update(op.outputs)
    read: set[str] = set()
    for op in reversed(graph.ops):
        if id(op) not in host and (not _is_view(op) or read.intersection(op.outputs)):
            read.update(op.inputs)
    idle = [
        op for op in graph.ops if _is_view(op) and not fed.intersection(op.inputs) and not read.intersection(op.outputs)
    ]
    return host | {id(op) for op in idle}


def _schedule(graph: Graph, host: set[int], host_first: bool) -> list[tuple[bool, list[Op]]]:
    """Take, in turn, all operators that are ready on the host and all that are ready on the array."""
    known = {*graph.inputs, *graph.constants}
    waiting = list(graph.ops)
    parts: list[tuple[bool, list[Op]]] = []
    is_host = host_first
    while waiting:
        taken: list[Op] = []
        later: list[Op] = []
        for op in waiting:
            if (id(op) in host) == is_host and known.issuperset(op.inputs):
                taken.append(op)
                known.update(op.outputs)
            else:
                later.append(op)
        if taken:
            parts.append((is_host, taken))
        waiting, is_host = later, not is_host
    return parts


def _part(graph: Graph, is_host: bool, ops: Sequence[Op]) -> Part:
    inputs, outputs = boundary(graph, ops)
    if is_host:
        return HostPart(write_subgraph(graph, ops), tuple(inputs), tuple(outputs), tuple(ops))
    return ArrayPart(tuple(inputs), tuple(outputs), tuple(ops))
