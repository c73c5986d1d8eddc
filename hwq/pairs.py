"""Element-wise functions of two tensors: their tables over all pairs, and the parameters of the hardware's adder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwq import ir
from hwq.difference import fit_sub, quantized_sub_table
from hwq.fixed import requantize_add
from hwq.product import fit_mul, qlinear_mul_table
from hwq.residual import OFFSET_BITS, OPERAND, AddParameters, fit_add, qlinear_add_table

_TABLES: dict[str, Callable[..., NDArray[np.int8]]] = {
    "Add": qlinear_add_table,
    "Sub": quantized_sub_table,
    "Mul": qlinear_mul_table,
}
_FITS: dict[str, Callable[..., AddParameters | None]] = {
    "Add": fit_add,
    "Sub": fit_sub,
    "Mul": fit_mul,
}

Quantization = tuple[np.float32, int, np.float32, int, np.float32, int]


def pair_table(kind: str, a: ir.Tensor, b: ir.Tensor, y: ir.Tensor) -> NDArray[np.int8]:
    """Return the values of the function `kind` (Add, Sub or Mul), less 128 if the tensors are uint8.

    Returns
    -------
    int8 array (256, 256)
        Entry [i, j] is that of the operands whose stored bytes are i - 128 and j - 128.
    """
    return _TABLES[kind](*_quantization(a, b, y), unsigned=y.dtype == "uint8")


def pair_parameters(op: ir.Pair, graph: ir.Graph, label: int | None = None) -> AddParameters | None:
    """Return the integers that make the output path's adder equal `op` for all operands, or None.

    The result is that of `op` less `label`, or as bytes are stored.
    """
    a, b = (graph.tensors[name] for name in op.inputs)
    y = graph.tensors[op.outputs[0]]
    own = 128 if y.dtype == "uint8" else 0
    found = _fitted(op.kind, _quantization(a, b, y), op.lo - own, op.hi - own, bool(own))
    return found if label is None or found is None else _moved(found, op.lo - own, op.hi - own, own - label)


def _quantization(a: ir.Tensor, b: ir.Tensor, y: ir.Tensor) -> Quantization:
    label = 128 if y.dtype == "uint8" else 0
    scales = [np.float32(tensor.scale) for tensor in (a, b, y) if tensor.scale is not None]
    return scales[0], a.zero_point - label, scales[1], b.zero_point - label, scales[2], y.zero_point - label


@functools.lru_cache(maxsize=1024)
def _fitted(kind: str, quantization: Quantization, lo: int, hi: int, unsigned: bool) -> AddParameters | None:
    return _FITS[kind](*quantization, lo, hi, unsigned=unsigned)


@functools.lru_cache(maxsize=1024)
def _moved(p: AddParameters, lo: int, hi: int, by: int) -> AddParameters | None:
    """Return parameters whose results are greater `by` that much, for every pair of operands, or None."""
    moved = replace(p, offset=p.offset + (by << p.shift))
    if abs(moved.offset) >= 1 << (OFFSET_BITS - 1):
        return None
    a, b = OPERAND[:, np.newaxis], OPERAND
    before = requantize_add(a, b, p.factor_a, p.factor_b, p.offset, p.shift, lo, hi)
    after = requantize_add(a, b, p.factor_a, p.factor_b, moved.offset, p.shift, lo + by, hi + by)
    return moved if np.array_equal(before + by, after) else None
