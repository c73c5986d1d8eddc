"""What the array can run: one function a rule, whose docstring is the message the user reads.

A rule takes the operator, its graph and the architecture and returns True where the operator obeys it. The first rule
broken sends the operator to the host, with the docstring's first line as the reason.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwq import ir, nibbles
from hwq.config import ArrayConfig
from hwq.packing import weight_matrix
from hwq.pairs import pair_parameters
from hwq.plan import is_depthwise
from hwq.tables import clamp_bounds, table_entries, tables_by_use
from hwq.truncations import truncations
from hwq.weights import has_int4, has_short_sums, is_paired

Constraint = Callable[[ir.Op, ir.Graph, ArrayConfig], bool]


def constraint_floor(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """A floored requantization's offset needs more than 22 bits of sum and 12 of product; use smaller multipliers."""
    return not (isinstance(op, ir.Conv | ir.Gemm) and op.floor) or truncations(op, graph) is not None


def constraint_rounding(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """A requantization that rounds down needs a larger output path; choose an arch with one (small)."""
    return not config.small or not isinstance(op, ir.Conv | ir.Gemm) or op.floor is None


def constraint_pads(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Padding must be smaller than the dilated kernel."""
    if not isinstance(op, ir.Conv | ir.MaxPool | ir.AveragePool):
        return True
    kernel = op.weight.shape[2:] if isinstance(op, ir.Conv) else op.kernel
    dilations = (1, 1) if isinstance(op, ir.AveragePool) else op.dilations
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    top, left, bottom, right = op.pads
    return max(top, bottom) <= reach[0] and max(left, right) <= reach[1]


def constraint_gemm_rank(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """MatMul and Gemm take an input of rank 1 to 3; reshape it to (rows, K)."""
    return not isinstance(op, ir.Gemm) or 1 <= len(graph.tensors[op.inputs[0]].shape) <= 3


def constraint_pool_rank(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Convolution and pooling take an NCHW input of rank 4."""
    return not isinstance(op, ir.Conv | ir.MaxPool | ir.AveragePool) or len(graph.tensors[op.inputs[0]].shape) == 4


def constraint_adder(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Add, Sub and Mul of two tensors need an adder in the output path; choose an arch with one (adder)."""
    return not isinstance(op, ir.Pair) or bool(config.adder)


def constraint_vector(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """MaxPool needs a vector unit; choose an arch with one (vector)."""
    return not isinstance(op, ir.MaxPool) or bool(config.vector)


def constraint_pairs(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """No integers reproduce this Add, Sub or Mul for all 65,536 pairs; power-of-two scales and even zero points do."""
    return not isinstance(op, ir.Pair) or pair_parameters(op, graph) is not None


def constraint_pair_dtype(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Both operands and the result of Add, Sub and Mul must be int8, or all uint8."""
    if not isinstance(op, ir.Pair):
        return True
    return len({graph.tensors[name].dtype for name in (*op.inputs, *op.outputs)}) == 1


def constraint_tables(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Other functions take every table of the architecture; choose one with more (tables)."""
    if not isinstance(op, ir.Table) or clamp_bounds(table_entries(op, graph)) is not None:
        return True
    return table_entries(op, graph).tobytes() in tables_by_use(graph)[: config.tables]


def constraint_block_scales(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Weights with a scale for each block of inputs need an architecture that has them (block_scales)."""
    return not (isinstance(op, ir.Conv | ir.Gemm) and op.block_scales) or bool(config.block_scales)


def constraint_sum_bytes(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Sums of 32 bits leave the array byte by byte, on an architecture that writes them so (sum_bytes)."""
    return not (isinstance(op, ir.Conv | ir.Gemm) and op.byte is not None) or bool(config.sum_bytes)


def constraint_block_taps(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """A convolution with block scales may have several kernel rows, kernel columns or blocks, but not all three."""
    if not isinstance(op, ir.Conv) or op.block_scales is None:
        return True
    counts = (*op.weight.shape[2:], len(op.block_scales.scale))
    return any(count == 1 for count in counts)


def constraint_block_sums(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Sums with block scales may leave 32 bits; use smaller scales, or split the layer along its inputs."""
    if not isinstance(op, ir.Conv | ir.Gemm) or op.block_scales is None:
        return True
    x = graph.tensors[op.inputs[0]]
    reach = max(x.range[1] - x.zero_point, x.zero_point - x.range[0])
    inputs = op.weight if isinstance(op, ir.Gemm) else op.weight.transpose(1, 0, 2, 3)
    sizes = np.abs(inputs.astype(np.int64)).reshape(*inputs.shape[:2], -1).sum(axis=2)
    scale = op.block_scales.scale.astype(np.int64)
    blocks = op.block_scales.blocks(len(sizes))
    largest = sum(factor * sizes[part].sum(axis=0) for factor, part in zip(scale, blocks, strict=True))
    return bool((reach * largest + np.abs(op.bias.astype(np.int64))).max() < 1 << 31)


def constraint_sums(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Sums may need more bits than the array has; split the inputs, or choose an arch with more (sum_bits)."""
    if config.sum_bits == 32 or not isinstance(op, ir.Conv | ir.Gemm | ir.AveragePool):
        return True
    if isinstance(op, ir.AveragePool):
        largest = op.kernel[0] * op.kernel[1]
    else:
        outputs = 0 if isinstance(op, ir.Conv) else 1
        weight = np.moveaxis(op.weight.astype(np.int64), outputs, 0).reshape(op.weight.shape[outputs], -1)
        largest = int(np.abs(weight - op.weight_zero_point.astype(np.int64)[:, None]).sum(1).max())
    if config.small:  # what passes the sum's range on the way to it with its bias does no harm
        x = graph.tensors[op.inputs[0]]
        largest *= max(x.range[1] - x.zero_point, x.zero_point - x.range[0])
        bias = 0 if isinstance(op, ir.AveragePool) else int(np.abs(op.bias.astype(np.int64)).max())
        return largest + bias < 1 << (config.sum_bits - 1)
    return 128 * largest < 1 << (config.sum_bits - 1)


def constraint_counts(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Rows, columns and channels are limited to 65,535, kernels to 4,095 in each direction."""
    shapes = [graph.tensors[name].shape for name in (*op.inputs, *op.outputs)]
    kernel: tuple[int, ...] = ()
    if isinstance(op, ir.Conv):
        kernel = op.weight.shape[2:]
    elif isinstance(op, ir.MaxPool | ir.AveragePool):
        kernel = op.kernel
    return all(n < 1 << 16 for shape in shapes for n in shape) and all(k < 1 << 12 for k in kernel)


def constraint_short_sums(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> bool:
    """Stored as bytes: sums of these 4-bit weights need more than 24 bits; split the layer's inputs between two."""
    if not (isinstance(op, ir.Conv | ir.Gemm) and config.int4) or is_depthwise(op):
        return True
    matrix = weight_matrix(op)
    paired = is_paired(matrix.shape[1], config.cols)
    short = has_short_sums(matrix, -128 if paired else nibbles.LOW)
    return short or not has_int4(matrix) or not (paired or config.act_int4)


MEMORIES = (
    "Not even a small piece of this layer fits the memories; choose an arch with larger ones (act_bytes, weight_words)."
)
"""The rule for what `hwq.capacity` finds no way to run, which shows only when the network is compiled."""

CONSTRAINTS: tuple[Constraint, ...] = (
    constraint_counts,
    constraint_pads,
    constraint_gemm_rank,
    constraint_pool_rank,
    constraint_pair_dtype,
    constraint_adder,
    constraint_vector,
    constraint_pairs,
    constraint_floor,
    constraint_rounding,
    constraint_tables,
    constraint_block_scales,
    constraint_sum_bytes,
    constraint_block_taps,
    constraint_block_sums,
    constraint_sums,
)
"""Every rule, in the order they are tried."""

STORAGE: tuple[Constraint, ...] = (constraint_short_sums,)
"""Rules for 4 bits: the array runs an operator that breaks one with bytes instead."""


def broken_rule(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> str | None:
    """Return the message of the first rule `op` breaks, None if the array can run it."""
    return _first_broken(CONSTRAINTS, op, graph, config)


def broken_storage_rule(op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> str | None:
    """Return the message of the rule that keeps `op` from 4 bits, None if it has them or is wider anyway."""
    return _first_broken(STORAGE, op, graph, config)


def _first_broken(rules: tuple[Constraint, ...], op: ir.Op, graph: ir.Graph, config: ArrayConfig) -> str | None:
    for constraint in rules:
        if not constraint(op, graph, config):
            assert constraint.__doc__ is not None
            return constraint.__doc__.splitlines()[0]
    return None
