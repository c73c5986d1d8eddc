"""Differences: integer parameters under which the hardware's adder equals Sub between dequantized tensors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwq.fixed import saturate
from hwq.residual import OPERAND, AddParameters, fit_sum

__all__ = ["fit_sub", "quantized_sub_table"]


def quantized_sub_table(
    a_scale: np.float32,
    a_zero_point: int,
    b_scale: np.float32,
    b_zero_point: int,
    c_scale: np.float32,
    c_zero_point: int,
    *,
    unsigned: bool = False,
) -> NDArray[np.int8]:
    """Tabulate DequantizeLinear of both operands, Sub and QuantizeLinear over all 65,536 pairs, in float32.

    ``c = sat(RNE(fl(fl(fl((a - a_zero_point) * a_scale) - fl((b - b_zero_point) * b_scale)) / c_scale)) +
    c_zero_point)``: ONNX Runtime has no integer kernel for Sub, and the zero point comes after the rounding.

    Parameters and result are those of `hwq.residual.qlinear_add_table`; a relabelled uint8 node has the same table.
    """
    a = (OPERAND - a_zero_point).astype(np.float32) * np.float32(a_scale)
    b = (OPERAND - b_zero_point).astype(np.float32) * np.float32(b_scale)
    with np.errstate(over="ignore", invalid="ignore"):
        c = np.rint((a[:, np.newaxis] - b) / np.float32(c_scale))
    return saturate(c + c_zero_point, -128, 127).astype(np.int8)


def fit_sub(
    a_scale: np.float32,
    a_zero_point: int,
    b_scale: np.float32,
    b_zero_point: int,
    c_scale: np.float32,
    c_zero_point: int,
    lo: int = -128,
    hi: int = 127,
    *,
    unsigned: bool = False,
) -> AddParameters | None:
    """Find integers that make :func:`hwq.fixed.requantize_add` equal Sub on all 65,536 pairs of operands.

    The adder rounds ties to even after adding the zero point, Sub before: where scales make ties, an odd zero point
    has no solution.

    Parameters and result are those of `hwq.residual.fit_add`.
    """
    table = quantized_sub_table(a_scale, a_zero_point, b_scale, b_zero_point, c_scale, c_zero_point, unsigned=unsigned)
    with np.errstate(over="ignore"):
        ratio_a = float(np.float32(a_scale) / np.float32(c_scale))
        ratio_b = -float(np.float32(b_scale) / np.float32(c_scale))
    return fit_sum(table, ratio_a, a_zero_point, ratio_b, b_zero_point, c_zero_point, lo, hi)
