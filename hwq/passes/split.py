"""Split layers into pieces of their results: bands of rows or columns, or blocks of channels.

A chain of layers Y = f(g(x)) becomes, for every piece of Y, the layers that compute what the piece needs (a window's
halo included, padding only at the image's own edge) from a Slice of x; a Concat of the pieces makes Y again. Every
element is computed as before, from the same operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwq.ir import AveragePool, Concat, Conv, Floor, Gemm, Graph, MaxPool, Op, Pair, Piece, Slice, Table, Tensor
from hwq.passes.edit import fresh_name

CHANNELS, ROWS, COLUMNS = 1, 2, 3
"""Axes of an image."""

Range = tuple[int, int]
"""Start and size."""


def split_axes(op: Op, graph: Graph) -> list[int]:
    """Return the axes of its result along which `op` can be split, those that cost least first."""
    shape = graph.tensors[op.outputs[0]].shape
    order = [ROWS, COLUMNS, CHANNELS, 0] if len(shape) == 4 else list(range(len(shape)))
    return [axis for axis in order if shape[axis] > 1 and _piece(op, graph, axis, (0, 1)) is not None]


def even(size: int, count: int, unit: int = 1) -> list[Range]:
    """Return `count` ranges, or fewer, that cover `size` and hold whole units, the last one excepted.

    >>> even(10, 3), even(10, 3, 4)
    ([(0, 4), (4, 4), (8, 2)], [(0, 4), (4, 4), (8, 2)])
    """
    step = -(-size // (count * unit)) * unit
    return [(start, min(step, size - start)) for start in range(0, size, step)]


def split(graph: Graph, chain: Sequence[Op], axis: int, ranges: Sequence[Range]) -> tuple[Graph, list[list[Op]]]:
    """Return `graph` with the result of `chain` made in pieces, and the new operators, a list a piece.

    Parameters
    ----------
    graph : Graph
        Left as it is.
    chain : sequence of Op
        Each one the only reader of what the one before makes, which isn't an output; all can be split along `axis`.
    axis : int
        Of the last one's result.
    ranges : sequence of Range
        Of the pieces, one after another.

    Returns
    -------
    Graph
        Its operators in topological order, the new ones and the Concat in the place of the chain's last.
    list of list of Op
        Those of each piece; the Concat follows them.
    """
    return _Split(graph, chain, axis).run(ranges)


class _Split:
    def __init__(self, graph: Graph, chain: Sequence[Op], axis: int):
        self._graph, self._chain, self._axis = graph, chain, axis
        self._ends: dict[str, int] = {}  # of what the pieces so far hold of the chain's tensors
        self._out = replace(
            graph, tensors=dict(graph.tensors), constants=dict(graph.constants), pieces=dict(graph.pieces)
        )

    def run(self, ranges: Sequence[Range]) -> tuple[Graph, list[list[Op]]]:
        last = self._chain[-1]
        groups = []
        for wanted in ranges:
            group: list[Op] = []
            self._make(len(self._chain) - 1, self._axis, wanted, group)
            groups.append(group)
        parts = tuple(group[-1].outputs[0] for group in groups)
        whole = Concat(name=last.name, inputs=parts, outputs=last.outputs, axis=self._axis)
        gone = {id(op) for op in self._chain}
        self._out.ops = []
        for op in self._graph.ops:
            if op is last:
                self._out.ops += [*(made for group in groups for made in group), whole]
            elif id(op) not in gone:
                self._out.ops.append(op)
        for op in self._chain[:-1]:
            del self._out.tensors[op.outputs[0]]
        return self._out, groups

    def _make(self, position: int, axis: int, wanted: Range, group: list[Op]) -> str:
        """Append what makes the piece `wanted` of the result of the chain's operator `position`; return its name."""
        op = self._chain[position]
        piece = _piece(op, self._graph, axis, wanted)
        assert piece is not None, op
        needs, changes = piece
        inputs = []
        for name, need in zip(op.inputs, needs, strict=True):
            if position and name == self._chain[position - 1].outputs[0]:
                assert need is not None, op
                inputs.append(self._make(position - 1, *need, group))
            else:
                inputs.append(name if need is None else self._slice(name, *need, group))
        whole, (start, size) = op.outputs[0], wanted
        end = self._ends.get(whole, 0)
        self._ends[whole] = max(end, start + size)
        output = self._declare(whole, axis, wanted, min(max(end - start, 0), size))
        label = output.removeprefix(op.outputs[0])
        group.append(replace(op, name=op.name + label, inputs=tuple(inputs), outputs=(output,), **changes))
        return output

    def _slice(self, name: str, axis: int, wanted: Range, group: list[Op]) -> str:
        """Return the tensor that is a part of `name`, adding what makes it."""
        if wanted == (0, self._graph.tensors[name].shape[axis]):
            return name
        output = self._declare(name, axis, wanted)
        start, size = wanted
        if name in self._graph.constants:
            self._out.constants[output] = self._graph.constants[name].take(range(start, start + size), axis)
        else:
            rank = len(self._graph.tensors[name].shape)
            begin = tuple(start if index == axis else 0 for index in range(rank))
            group.append(Slice(name=output, inputs=(name,), outputs=(output,), begin=begin, steps=(1,) * rank))
        return output

    def _declare(self, name: str, axis: int, wanted: Range, again: int = 0) -> str:
        whole, (start, size) = self._graph.tensors[name], wanted
        kind = {ROWS: "rows", COLUMNS: "columns", CHANNELS: "channels"} if len(whole.shape) == 4 else {}
        part = fresh_name(self._out, {}, f"{name}[{kind.get(axis, f'axis {axis}')} {start}:{start + size}]")
        shape = (*whole.shape[:axis], size, *whole.shape[axis + 1 :])
        self._out.tensors[part] = Tensor(part, shape, whole.dtype, whole.scale, whole.zero_point)
        self._out.pieces[part] = Piece(whole, axis, start, size, again)
        return part


Need = tuple[int, Range] | None
"""The axis and range of an operand that a piece needs; None: all of it."""


def _piece(op: Op, graph: Graph, axis: int, wanted: Range) -> tuple[list[Need], dict[str, Any]] | None:
    """Return what a piece of the result of `op` needs of each operand, and how `op` changes; None where it can't."""
    rank = len(graph.tensors[op.outputs[0]].shape)
    if isinstance(op, Gemm):
        return _gemm(op, rank, axis, wanted)
    if isinstance(op, Conv | MaxPool | AveragePool):
        if axis in (ROWS, COLUMNS):
            return _window(op, graph, axis, wanted)
        if axis == CHANNELS and isinstance(op, Conv):
            return _channels(op, graph, wanted)
        return [(axis, wanted)], {}
    if isinstance(op, Pair | Table) or (isinstance(op, Concat) and op.axis % rank != axis):
        return [_operand(graph.tensors[name].shape, rank, axis, wanted) for name in op.inputs], {}
    return None


def _operand(shape: tuple[int, ...], rank: int, axis: int, wanted: Range) -> Need:
    """Return what is needed of an operand that is broadcast to a result of `rank`."""
    own = axis - (rank - len(shape))
    return None if own < 0 or shape[own] == 1 else (own, wanted)


def _gemm(op: Gemm, rank: int, axis: int, wanted: Range) -> tuple[list[Need], dict[str, Any]]:
    if axis < rank - 1:
        return [(axis, wanted)], {}
    chosen = slice(wanted[0], sum(wanted))
    return [None], {"weight": op.weight[:, chosen], **_per_channel(op, chosen)}


def _channels(op: Conv, graph: Graph, wanted: Range) -> tuple[list[Need], dict[str, Any]] | None:
    chosen = slice(wanted[0], sum(wanted))
    changes = {"weight": op.weight[chosen], **_per_channel(op, chosen)}
    if op.groups == 1:
        return [None], changes
    if op.groups == len(op.weight) == graph.tensors[op.inputs[0]].shape[1]:
        return [(CHANNELS, wanted)], {**changes, "groups": wanted[1]}
    return None


def _per_channel(op: Conv | Gemm, chosen: slice) -> dict[str, Any]:
    count = op.weight.shape[0 if isinstance(op, Conv) else 1]
    names = ("weight_zero_point", "weight_scale", "bias")
    changes: dict[str, Any] = {name: np.broadcast_to(getattr(op, name), (count,))[chosen] for name in names}
    if op.block_scales is not None:
        changes["block_scales"] = replace(op.block_scales, scale=op.block_scales.scale[:, chosen])
    if op.floor is not None:
        values = (op.floor.multiplier, op.floor.offset, op.floor.shift)
        changes["floor"] = Floor(*(np.broadcast_to(value, (count,))[chosen] for value in values))
    return changes


def _window(
    op: Conv | MaxPool | AveragePool, graph: Graph, axis: int, wanted: Range
) -> tuple[list[Need], dict[str, Any]]:
    """Return the rows or columns the windows of `wanted` cover, those outside the image as padding."""
    along, (start, size) = axis - ROWS, wanted
    kernel = (op.weight.shape[2:] if isinstance(op, Conv) else op.kernel)[along]
    dilation = 1 if isinstance(op, AveragePool) else op.dilations[along]
    stride, there = op.strides[along], graph.tensors[op.inputs[0]].shape[axis]
    first = start * stride - op.pads[along]
    end = (start + size - 1) * stride - op.pads[along] + (kernel - 1) * dilation + 1
    inside = max(first, 0), min(end, there)
    new = list(op.pads)
    new[along], new[along + 2] = inside[0] - first, end - inside[1]
    return [(axis, (inside[0], inside[1] - inside[0]))], {"pads": tuple(new)}
