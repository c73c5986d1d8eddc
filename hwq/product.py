"""Products: integer parameters under which the hardware's multiplier and adder equal QLinearMul on every pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwq.fixed import requantize_add, saturate
from hwq.residual import FACTOR_BITS, OFFSET_BITS, OPERAND, AddParameters, preimage

__all__ = ["PRODUCT_SHIFT_MAX", "fit_mul", "qlinear_mul_table"]

PRODUCT_SHIFT_MAX = 31
"""Shift tried first: products have up to 17 bits, so their factors are small."""

_SEARCH_RADIUS = 32
_UNBOUNDED = 1 << 60
_INT32 = np.float32(2.0**31)


def qlinear_mul_table(
    a_scale: np.float32,
    a_zero_point: int,
    b_scale: np.float32,
    b_zero_point: int,
    c_scale: np.float32,
    c_zero_point: int,
    *,
    unsigned: bool = False,
) -> NDArray[np.int8]:
    """Tabulate ONNX Runtime's QLinearMul over all 65,536 pairs of operands; this is the specification, in float32.

    ``c = sat(RNE(fl(fl(p * r) + c_zero_point)))`` with ``p = (a - a_zero_point) * (b - b_zero_point)`` and
    ``r = fl(fl(a_scale * b_scale) / c_scale)``: the zero point comes before the rounding.

    Parameters and result are those of `hwq.residual.qlinear_add_table`.
    """
    label = 128 if unsigned else 0
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.float32(a_scale) * np.float32(b_scale) / np.float32(c_scale)
        products = _products(a_zero_point, b_zero_point).astype(np.float32)
        c = np.rint(products * ratio + np.float32(c_zero_point + label))
    c = np.where(np.abs(c) < _INT32, c, -_INT32)  # as x86 converts what int32 can't hold
    return (saturate(c, label - 128, label + 127) - label).astype(np.int8)


def fit_mul(
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
    """Find integers that make :func:`hwq.fixed.requantize_add` of a product equal QLinearMul on all 65,536 pairs.

    The product takes the place of the second operand, the first one's factor is 0, and the zero point goes into the
    offset, so that the adder rounds after adding it, as QLinearMul does. Candidates are the ratio rounded to a multiple
    of ``2**-shift`` and its neighbours, the largest shift and the nearest neighbour first. A factor's products bound
    the offset from both sides; the middle of that interval is taken, and compared with the table on every pair.

    Random scales had a solution in every trial, power-of-two scales always do. There is none for some ratios of small
    decimals, where thousands of pairs are ties but for float32's own errors.

    Parameters and result are those of `hwq.residual.fit_add`, `factor_b` being the product's.
    """
    with np.errstate(over="ignore"):
        ratio = float(np.float32(a_scale) * np.float32(b_scale) / np.float32(c_scale))
    if not ratio < 1 << (FACTOR_BITS - 1):
        return None
    table = qlinear_mul_table(a_scale, a_zero_point, b_scale, b_zero_point, c_scale, c_zero_point, unsigned=unsigned)
    products, first = np.unique(_products(a_zero_point, b_zero_point), return_index=True)
    target = saturate(table.reshape(-1)[first].astype(np.int64), lo, hi)
    neighbours = sorted(range(-_SEARCH_RADIUS, _SEARCH_RADIUS + 1), key=lambda step: (abs(step), step))
    for shift in range(PRODUCT_SHIFT_MAX, 0, -1):
        nearest = round(ratio * 2.0**shift)
        if nearest + _SEARCH_RADIUS >= 1 << (FACTOR_BITS - 1):
            continue
        least, most = preimage(target, shift)
        least, most = np.where(target > lo, least, -_UNBOUNDED), np.where(target < hi, most, _UNBOUNDED)
        for step in neighbours:
            total = products * (nearest + step)
            lowest, highest = int((least - total).max()), int((most - total).min())
            offset = min(max((lowest + highest) // 2, -(1 << (OFFSET_BITS - 1))), (1 << (OFFSET_BITS - 1)) - 1)
            if not lowest <= offset <= highest:
                continue
            result = requantize_add(0, products, 0, nearest + step, offset, shift, lo, hi)
            if np.array_equal(result, target):
                return AddParameters(0, nearest + step, offset, shift)
    return None


def _products(a_zero_point: int, b_zero_point: int) -> NDArray[np.int64]:
    """Return the products (256, 256) of all pairs of operands."""
    return (OPERAND[:, np.newaxis] - a_zero_point) * (OPERAND - b_zero_point)
