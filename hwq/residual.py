"""Residual adds: integer parameters under which the hardware's adder equals QLinearAdd on every pair of operands."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwq.fixed import requantize_add, saturate

__all__ = [
    "FACTOR_BITS",
    "OFFSET_BITS",
    "OPERAND",
    "SHIFT_DEFAULT",
    "AddParameters",
    "fit_add",
    "fit_sum",
    "preimage",
    "qlinear_add_table",
]

FACTOR_BITS = 26
"""Bits of a signed factor."""

OFFSET_BITS = 40
"""Bits of the signed offset."""

SHIFT_DEFAULT = 24
"""Shift tried first: a factor below 2 then fills its 26 bits."""

OPERAND = np.arange(-128, 128, dtype=np.int64)
"""Every stored byte."""

_SEARCH_RADIUS = 8
_SEARCH_WORK = 1 << 20  # pairs looked at before a repair is given up, some 10 ms
_UNBOUNDED = 1 << 60


@dataclass(frozen=True)
class AddParameters:
    """Parameters of :func:`hwq.fixed.requantize_add`.

    Attributes
    ----------
    factor_a, factor_b : int
        Signed 26 bits.
    offset : int
        Signed 40 bits.
    shift : int
        0 to 31.
    """

    factor_a: int
    factor_b: int
    offset: int
    shift: int


def _fma(x: ArrayLike, y: np.float32, z: ArrayLike) -> NDArray[np.float32]:
    """Return ``fl(x * y + z)``, rounded once, for `x` of at most 29 significant bits and float32 `y`, `z`.

    The product is exact in float64, the sum need not be. It is therefore rounded to odd (two-sum, then step to the odd
    neighbour where bits were lost), after which rounding to float32 is correct, float64 having more than two spare bits
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE Trans. Computers 57(4), 2008).
    """
    p = np.asarray(x, dtype=np.float64) * np.float64(y)
    z = np.asarray(z, dtype=np.float64)
    total = p + z
    z_part = total - p
    lost = (p - (total - z_part)) + (z - z_part)
    to_odd = (lost != 0) & (total.view(np.int64) & 1 == 0)
    total = np.where(to_odd, np.nextafter(total, np.copysign(np.inf, lost)), total)
    return total.astype(np.float32)


def qlinear_add_table(
    a_scale: np.float32,
    a_zero_point: int,
    b_scale: np.float32,
    b_zero_point: int,
    c_scale: np.float32,
    c_zero_point: int,
    *,
    unsigned: bool = False,
) -> NDArray[np.int8]:
    """Tabulate ONNX Runtime's QLinearAdd over all 65,536 pairs of operands; this is the specification, in float32.

    With fl rounding to float32 and fma rounding once::

        ra = fl(a_scale / c_scale)    rb = fl(b_scale / c_scale)
        k  = fl(c_zero_point - fma(a_zero_point, ra, fl(b_zero_point * rb)))
        c  = sat(RNE(fma(a, ra, fma(b, rb, k))))

    The fma in k is the compiler's contraction in ONNX Runtime's AVX2 kernel: k rounded twice differs on about one
    pair in a million. A uint8 node is computed on uint8 values although its tensors are stored relabelled (x -
    128): its k differs in the last place from that of the relabelled node, and so do some results.

    Parameters
    ----------
    a_scale, b_scale, c_scale : float32
        Positive and finite, the ratios to `c_scale` below 2**64.
    a_zero_point, b_zero_point, c_zero_point : int
        -128 to 127, relabelled (x - 128) if the node is uint8.
    unsigned : bool
        Whether the node's tensors are uint8.

    Returns
    -------
    int8 array (256, 256)
        Entry [a + 128, b + 128] is c for the operands a and b, all relabelled if the node is uint8.
    """
    label = 128 if unsigned else 0
    ratio_a = np.float32(a_scale) / np.float32(c_scale)
    ratio_b = np.float32(b_scale) / np.float32(c_scale)
    b_part = ratio_b * np.float32(b_zero_point + label)
    k = np.float32(c_zero_point + label) - _fma(np.int64(a_zero_point + label), ratio_a, b_part)
    operand = OPERAND + label
    c = np.rint(_fma(operand[:, np.newaxis], ratio_a, _fma(operand, ratio_b, k)))
    return (saturate(c, label - 128, label + 127) - label).astype(np.int8)


def fit_add(
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
    """Find integers that make :func:`hwq.fixed.requantize_add` equal QLinearAdd on all 65,536 pairs of operands.

    Candidates are the scale ratios rounded to multiples of ``2**-shift``, with the largest shift up to 24 at which
    factors and offset fit their fields. Where float32's roundings send a pair elsewhere, the factors' neighbours
    are tried, nearest first: the pairs bound the offset from both sides once the factors are chosen, so the best
    offset is the middle of an interval. If no neighbour has one, smaller shifts follow: they are coarser, but snap
    to ratios that are multiples of a small power of two, where many pairs are exact ties. What is returned has been
    compared with the table on every pair.

    Random scales had a solution in every trial, mostly the first candidate. There is often none where the ratios
    are small fractions whose denominator isn't a power of two (0.7 and 0.9, say): thousands of pairs are then ties but
    for float32's own errors, which no linear form repeats.

    Parameters
    ----------
    a_scale, a_zero_point, b_scale, b_zero_point, c_scale, c_zero_point, unsigned
        As for :func:`qlinear_add_table`.
    lo, hi : int
        Bounds of the result, both included, in -128 to 127.

    Returns
    -------
    AddParameters or None
        None if no parameters were found: the node can't run on the adder.
    """
    with np.errstate(over="ignore"):
        ratio_a = float(np.float32(a_scale) / np.float32(c_scale))
        ratio_b = float(np.float32(b_scale) / np.float32(c_scale))
    if not max(ratio_a, ratio_b) < 1 << (FACTOR_BITS - 1):
        return None
    table = qlinear_add_table(a_scale, a_zero_point, b_scale, b_zero_point, c_scale, c_zero_point, unsigned=unsigned)
    return fit_sum(table, ratio_a, a_zero_point, ratio_b, b_zero_point, c_zero_point, lo, hi)


def fit_sum(
    table: NDArray[np.int8],
    ratio_a: float,
    a_zero_point: int,
    ratio_b: float,
    b_zero_point: int,
    c_zero_point: int,
    lo: int,
    hi: int,
) -> AddParameters | None:
    """Find integers that make the adder equal `table`, which is nearly linear, on all pairs; see `fit_add`.

    Parameters
    ----------
    table : int8 array (256, 256)
        Close to ``ratio_a * (a - a_zero_point) + ratio_b * (b - b_zero_point) + c_zero_point``.
    lo, hi : int
        Bounds of the result.
    """
    if not np.isfinite((ratio_a, ratio_b)).all():
        return None
    target = saturate(table.astype(np.int64), lo, hi)
    constant = c_zero_point - ratio_a * a_zero_point - ratio_b * b_zero_point
    for shift in range(SHIFT_DEFAULT, 0, -1):
        factor_a, factor_b, offset = (round(x * 2.0**shift) for x in (ratio_a, ratio_b, constant))
        start = AddParameters(factor_a, factor_b, offset, shift)
        if not _fits(start):
            continue
        if _equals(start, target, lo, hi):
            return start
        found = _repair(start, target, lo, hi)
        if found is not None:
            return found
    return None


def _fits(p: AddParameters) -> bool:
    factor_limit = 1 << (FACTOR_BITS - 1)
    offset_limit = 1 << (OFFSET_BITS - 1)
    return (
        -factor_limit <= p.factor_a < factor_limit
        and -factor_limit <= p.factor_b < factor_limit
        and -offset_limit <= p.offset < offset_limit
    )


def _equals(p: AddParameters, target: NDArray[np.int64], lo: int, hi: int) -> bool:
    result = requantize_add(OPERAND[:, np.newaxis], OPERAND, p.factor_a, p.factor_b, p.offset, p.shift, lo, hi)
    return np.array_equal(result, target)


def preimage(c: NDArray[np.int64], shift: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the least and the greatest sum that the adder rounds to `c`, -128 to 127, at `shift`.

    A magnitude rounds to n up to ``n + 1/2 + h`` if n is even and below ``n + 1/2 - h`` if n is odd, h being the
    tie band at n.
    """

    def greatest_magnitude(n: NDArray[np.int64]) -> NDArray[np.int64]:
        _, bit_length = np.frexp(n.astype(np.float64))
        band = (np.int64(1) << np.maximum(shift + bit_length.astype(np.int64) - 24, 0)) >> 1
        return (2 * n + 1) * (1 << (shift - 1)) + np.where(n & 1, -band - 1, band)

    n = np.abs(c)
    outer = greatest_magnitude(n)
    inner = np.where(n > 0, greatest_magnitude(np.maximum(n - 1, 0)) + 1, -outer)
    return np.where(c < 0, -outer, inner), np.where(c < 0, -inner, outer)


def _repair(start: AddParameters, target: NDArray[np.int64], lo: int, hi: int) -> AddParameters | None:
    """Search the factors around `start` for two with a feasible offset, nearest first.

    Each result bounds its sum from both sides, or from one if it is saturated. Only pairs whose sum is within reach
    of a bound can bind.
    """
    a, b = OPERAND[:, np.newaxis], OPERAND
    total = a * start.factor_a + b * start.factor_b + start.offset
    least, most = preimage(target, start.shift)
    room_down = np.where(target > lo, least - total, -_UNBOUNDED)
    room_up = np.where(target < hi, most - total, _UNBOUNDED)

    reach = 4 * 128 * 2 * _SEARCH_RADIUS
    rows = np.nonzero((room_down > -reach) | (room_up < reach))
    a, b, room_down, room_up = OPERAND[rows[0]], OPERAND[rows[1]], room_down[rows], room_up[rows]
    span = range(-_SEARCH_RADIUS, _SEARCH_RADIUS + 1)
    steps = sorted(product(span, span), key=lambda step: (abs(step[0]) + abs(step[1]), step))
    for step_a, step_b in steps[: _SEARCH_WORK // a.size]:  # where no pair binds, nothing needs a repair
        moved = a * step_a + b * step_b
        # Together with the move itself, such an offset can't bring a pair from beyond reach to its bound.
        lowest = max(int((room_down - moved).max(initial=-reach)), -(reach // 2))
        highest = min(int((room_up - moved).min(initial=reach)), reach // 2)
        if lowest > highest:
            continue
        found = AddParameters(
            start.factor_a + step_a, start.factor_b + step_b, start.offset + (lowest + highest) // 2, start.shift
        )
        if _fits(found) and _equals(found, target, lo, hi):
            return found
    return None
