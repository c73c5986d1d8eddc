"""Networks of 4-bit weights."""

from __future__ import annotations

import dataclasses

import numpy as np

from hwq import ir


def narrowed(graph: ir.Graph) -> ir.Graph:
    """Return `graph` with the weights of every convolution and matrix product rounded to 4 bits."""
    return dataclasses.replace(
        graph, ops=[_narrowed(op) if isinstance(op, ir.Conv | ir.Gemm) else op for op in graph.ops]
    )


def _narrowed(op: ir.Conv | ir.Gemm) -> ir.Op:
    axis = 0 if isinstance(op, ir.Conv) else op.weight.ndim - 1
    shape = [-1 if dim == axis else 1 for dim in range(op.weight.ndim)]
    weight = op.weight.astype(np.float64) - op.weight_zero_point.reshape(shape)
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    step = np.maximum(np.abs(weight).max(others), 1) / 7.5
    return dataclasses.replace(
        op,
        weight=np.clip(np.rint(weight / step.reshape(shape)), -8, 7).astype(np.int8),
        weight_zero_point=np.zeros_like(op.weight_zero_point),
        weight_scale=(op.weight_scale * step).astype(np.float32),
        bias=np.rint(op.bias / step).astype(np.int32),
    )
