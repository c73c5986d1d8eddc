"""Exchange rows and columns of every image, so that the other axis becomes the one that lies contiguous in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from hwq.ir import AveragePool, Concat, Conv, Graph, HostNode, MaxPool, Op, Pad, Pair, Table, Tensor, Transpose
from hwq.passes.edit import fresh_name

SWAP = (0, 1, 3, 2)
"""The permutation of an NCHW tensor's axes."""


def is_square(graph: Graph) -> bool:
    """Whether every image and kernel has as many rows as columns, so that exchanging them changes nothing."""
    windows = [op for op in graph.ops if isinstance(op, Conv | MaxPool | AveragePool)]
    kernels = [op.weight.shape[2:] if isinstance(op, Conv) else op.kernel for op in windows]
    images = [graph.tensors[name].shape[2:] for op in windows for name in (op.inputs[0], *op.outputs)]
    return all(rows == columns for rows, columns in (*kernels, *images))


def transpose_space(graph: Graph) -> Graph:
    """Return the graph with rows and columns exchanged inside, and transposes where it meets anything else.

    Rules: Conv, MaxPool, AveragePool, Pad, and Add, Sub, Mul, Table and Concat of images take and give exchanged
    images, their kernels, strides, pads, dilations and axes exchanged likewise; every other operator keeps its own.
    """
    return _Exchange(graph).run()


class _Exchange:
    def __init__(self, graph: Graph):
        self._graph = graph
        self._out = dataclasses.replace(
            graph,
            tensors=dict(graph.tensors),
            constants=dict(graph.constants),
            ops=[],
            swapped={},
        )
        self._names: dict[str, str] = {}
        self._upright = {*graph.inputs, *graph.constants}

    def run(self) -> Graph:
        for op in self._graph.ops:
            exchanged = self._exchanged(op)
            if exchanged is None:
                for name in op.inputs:
                    self._restore(name)
                self._out.ops.append(op)
                self._upright.update(op.outputs)
            else:
                self._out.ops.append(exchanged)
        for name in self._graph.outputs:
            self._restore(name)
        return self._out

    def _exchanged(self, op: Op) -> Op | None:
        """Return `op` on exchanged images, None for one that keeps its own."""
        rank = {len(self._graph.tensors[name].shape) for name in (*op.inputs, *op.outputs)}
        if rank != {4} or isinstance(op, HostNode):
            return None
        changes: dict[str, Any]
        if isinstance(op, Conv):
            changes = {"weight": np.ascontiguousarray(op.weight.transpose(SWAP)), "dilations": op.dilations[::-1]}
            changes |= {"strides": op.strides[::-1], "pads": _swap_pads(op.pads)}
        elif isinstance(op, MaxPool):
            changes = {"kernel": op.kernel[::-1], "strides": op.strides[::-1], "dilations": op.dilations[::-1]}
            changes |= {"pads": _swap_pads(op.pads)}
        elif isinstance(op, AveragePool):
            changes = {"kernel": op.kernel[::-1], "strides": op.strides[::-1], "pads": _swap_pads(op.pads)}
        elif isinstance(op, Pad):
            changes = {"begin": tuple(op.begin[i] for i in SWAP), "end": tuple(op.end[i] for i in SWAP)}
        elif isinstance(op, Concat):
            changes = {"axis": SWAP[op.axis]}
        elif isinstance(op, Pair | Table):
            changes = {}
        else:
            return None
        inputs = tuple(self._swap(name) for name in op.inputs)
        (output,) = op.outputs
        return dataclasses.replace(op, inputs=inputs, outputs=(self._declare(output),), **changes)

    def _declare(self, name: str) -> str:
        """Return the name of exchanged tensor `name`, declaring it."""
        if name not in self._names:
            tensor = self._graph.tensors[name]
            new = fresh_name(self._out, {}, f"{name}^T")
            shape = tuple(tensor.shape[i] for i in SWAP)
            self._out.tensors[new] = Tensor(new, shape, tensor.dtype, tensor.scale, tensor.zero_point)
            self._out.swapped[new] = tensor
            self._names[name] = new
        return self._names[name]

    def _swap(self, name: str) -> str:
        """Return exchanged tensor `name`, transposing it where only the upright one exists."""
        if name in self._names:
            return self._names[name]
        new = self._declare(name)
        if name in self._graph.constants:
            self._out.constants[new] = np.ascontiguousarray(self._graph.constants[name].transpose(SWAP))
        else:
            self._out.ops.append(Transpose(name=new, inputs=(name,), outputs=(new,), perm=SWAP))
        return new

    def _restore(self, name: str) -> None:
        """Make upright tensor `name` exist."""
        if name not in self._upright:
            swapped = self._names[name]
            self._out.ops.append(Transpose(name=f"{name}^", inputs=(swapped,), outputs=(name,), perm=SWAP))
            self._upright.add(name)


def _swap_pads(pads: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = pads
    return left, top, right, bottom
