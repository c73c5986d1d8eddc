"""What the array can run: one function a rule, whose docstring is the message the user reads.

A rule takes the operator, its graph and the architecture and returns True where the operator obeys it. The first rule
broken sends the operator to the host, with the docstring's first line as the reason.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwq import ir
from hwq.config import ArrayConfig
from hwq.plan import is_depthwise
from hwq.residual import AddParameters, fit_add
from hwq.tables import clamp_bounds, table_entries, tables_by_use

Constraint = Callable[[ir.Op, ir.Graph, ArrayConfig], bool]


def add_parameters(op: ir.Add, graph: ir.Graph) -> AddParameters | None:
    """Return the integers that make the output path's adder equal `op` for all operands, or None."""
    a, b = (graph.tensors[name] for name in op.inputs)
    y = graph.tensors[op.outputs[0]]
    scales = [np.float32(tensor.scale) for tensor in (a, b, y) if tensor.scale is not None]
    label = 128 if y.dtype == "uint8" else 0
    return fit_add(
        scales[0],
        a.zero_point - label,
        scales[1],
        b.zero_point - label,
        scales[2],
        y.zero_point - label,
        op.lo - label,
        op.hi - label,
        unsigned=bool(label),
    )


def constraint_groups(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Grouped convolution runs on the host, unless it is depthwise (as many groups as inputs and outputs)."""
    return not isinstance(op, ir.Conv) or op.groups == 1 or is_depthwise(op)


def constraint_pads(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Padding must be smaller than the dilated kernel."""
    if not isinstance(op, ir.Conv | ir.MaxPool):
        return True
    kernel = op.weight.shape[2:] if isinstance(op, ir.Conv) else op.kernel
    reach = [(k - 1) * d for k, d in zip(kernel, op.dilations, strict=True)]
    top, left, bottom, right = op.pads
    return max(top, bottom) <= reach[0] and max(left, right) <= reach[1]


def constraint_gemm_rank(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """MatMul and Gemm take an input of rank 1 to 3; reshape it to (rows, K)."""
    return not isinstance(op, ir.Gemm) or 1 <= len(graph.tensors[op.inputs[0]].shape) <= 3


def constraint_pool_rank(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Convolution and pooling take an NCHW input of rank 4."""
    return not isinstance(op, ir.Conv | ir.MaxPool | ir.AveragePool) or len(graph.tensors[op.inputs[0]].shape) == 4


def constraint_add(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """No integer factors of 26 bits reproduce this Add for all 65,536 operand pairs; power-of-two scales do."""
    return not isinstance(op, ir.Add) or add_parameters(op, graph) is not None


def constraint_add_dtype(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Both operands and the result of Add must be int8, or all uint8."""
    if not isinstance(op, ir.Add):
        return True
    return len({graph.tensors[name].dtype for name in (*op.inputs, *op.outputs)}) == 1


def constraint_tables(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Other functions take every table of the architecture; choose one with more (tables)."""
    if not isinstance(op, ir.Table) or clamp_bounds(table_entries(op, graph)) is not None:
        return True
    return table_entries(op, graph).tobytes() in tables_by_use(graph)[: config.tables]


def constraint_counts(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Rows, columns and channels are limited to 65,535, kernels to 4,095 in each direction."""
    shapes = [graph.tensors[name].shape for name in (*op.inputs, *op.outputs)]
    kernel: tuple[int, ...] = ()
    if isinstance(op, ir.Conv):
        kernel = op.weight.shape[2:]
    elif isinstance(op, ir.MaxPool | ir.AveragePool):
        kernel = op.kernel
    return all(n < 1 << 16 for shape in shapes for n in shape) and all(k < 1 << 12 for k in kernel)


MEMORIES = (
    "Not even a small piece of this layer fits the memories; choose an arch with larger ones (act_bytes, weight_words)."
)
"""The rule for what `hwq.capacity` finds no way to run, which shows only when the network is compiled."""

CONSTRAINTS: tuple[Constraint, ...] = (
    constraint_counts,
    constraint_groups,
    constraint_pads,
    constraint_gemm_rank,
    constraint_pool_rank,
    constraint_add_dtype,
    constraint_add,
    constraint_tables,
)
"""Every rule, in the order they are tried."""


def broken_rule(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> str | None:
    """Return the message of the first rule `op` breaks, None if the array can run it."""
    for constraint in CONSTRAINTS:
        if not constraint(op, graph, config):
            assert constraint.__doc__ is not None
            return constraint.__doc__.splitlines()[0]
    return None
