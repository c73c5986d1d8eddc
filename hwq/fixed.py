"""The project's rounding: saturate, rounding shift, requantize, all on integers.

Every other module that rounds or saturates calls these functions; ``rtl/requantize.py`` and ``rtl/residual_add.py``
are their gateware twins. No floating-point operation is used to compute a result: floats are only taken apart, in
:func:`encode_multiplier`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "MULTIPLIER_BITS",
    "OFFSET_BITS",
    "OFFSET_SHIFT",
    "SHIFT_MAX",
    "SHIFT_MIN",
    "byte_of_sum",
    "encode_multiplier",
    "requantize",
    "requantize_add",
    "requantize_floor",
    "requantize_truncate",
    "rounding_shift",
    "saturate",
]

MULTIPLIER_BITS = 24
"""Bits of a multiplier's mantissa: the float32 significand with its hidden bit."""

OFFSET_SHIFT = MULTIPLIER_BITS // 2
"""Where the offset of a truncating requantization is added to the product: at the cross terms of its halves [bit]."""

OFFSET_BITS = 12
"""Bits of that offset."""

SHIFT_MIN = 14
"""Least shift: multipliers of 1024 and more saturate every output, so none needs a smaller one."""

SHIFT_MAX = 63
"""Greatest shift: what 6 bits hold; multipliers below 2**-40 round every accumulator to 0."""

_SIGNIFICANT_POWERS = 1 << np.arange(MULTIPLIER_BITS, 32, dtype=np.int64)
_OCTAVE = np.array([n.bit_length() - 1 for n in range(512)])


def saturate(x: ArrayLike, lo: ArrayLike, hi: ArrayLike) -> NDArray:
    """Clamp to a closed range: `lo` for what is below it, else `hi` for what is above that.

    Parameters
    ----------
    x : integer array
    lo, hi : integer, broadcast against `x`
        Bounds, both included; of ``lo > hi`` every `x` gives one or the other.

    Returns
    -------
    integer array
        Of the common dtype of the arguments.
    """
    return np.where(np.less(x, lo), lo, np.minimum(x, hi))


def rounding_shift(x: ArrayLike, s: ArrayLike) -> NDArray[np.int64]:
    """Divide by a power of two and round to nearest, ties to even: ``RNE(x / 2**s)``.

    Adding a constant before an arithmetic shift can't do this at any constant, since two neighbouring ties go opposite
    ways; here the bits shifted out are compared with one half. Exact for every int64: nothing is added to `x`.

    Parameters
    ----------
    x : int64 array
    s : integer, broadcast against `x`
        Shift, 0 to 62; 0 is the identity.

    Returns
    -------
    int64 array
    """
    x = np.asarray(x, dtype=np.int64)
    s = np.asarray(s, dtype=np.int64)
    quotient = x >> s
    one = np.int64(1) << s
    twice_remainder = (x & (one - 1)) << 1
    round_up = (twice_remainder > one) | ((twice_remainder == one) & (quotient & 1 == 1))
    return quotient + round_up


def encode_multiplier(m: ArrayLike) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Split float32 multipliers into the integers of the requantizer: ``m = mantissa * 2**-shift``.

    ``mantissa`` is the 24-bit significand with its hidden bit, in [2**23, 2**24), and
    ``shift = 150 - biased exponent``. The two ends of the float32 range need no other shift, because there every
    accumulator has the same result:

    - ``shift > 63``, subnormals included, becomes ``(0, 63)``: then m < 2**24 * 2**-64 = 2**-40, so with
      ``|acc| <= 2**31`` ``|acc * m| < 2**-9``, which rounds to 0 as ``acc * 0`` does.
    - ``shift < 14`` becomes ``(2**24 - 1, 14)``: then m >= 2**23 * 2**-13 = 1024 and its replacement is 1024 -
      2**-14, both at least 512. ``acc = 0`` gives 0 with either. Otherwise ``|acc * m| >= 512``, and adding any
      zero point of an 8-bit type (-128 to 127, or 0 to 255) leaves the value on the same side beyond the type's
      range: 512 - 128 = 384 > 127 and -512 + 127 < -128 when signed, 512 + 0 > 255 and -512 + 255 < 0 when
      unsigned.

    Parameters
    ----------
    m : float32 array
        Multipliers, finite and not negative.

    Returns
    -------
    mantissa : uint32 array of the shape of `m`
        0, or 2**23 to 2**24 - 1.
    shift : uint8 array of the shape of `m`
        14 to 63.

    Raises
    ------
    TypeError
        If `m` isn't float32: rounding to float32 is the caller's, since it is part of the operator's meaning.
    ValueError
        If a multiplier is negative, infinite or not a number.
    """
    m = np.array(m)
    if m.dtype != np.float32:
        raise TypeError(f"Multiplier must be float32, not {m.dtype}")
    refused = ~(np.isfinite(m) & (m >= 0))
    if refused.any():
        raise ValueError(f"Multiplier must be a finite number not below 0, not {m[refused][0]!s}")
    bits = m.view(np.uint32)
    mantissa = (bits & 0x7FFFFF) | 0x800000
    shift = 150 - ((bits >> 23) & 0xFF).astype(np.int64)
    mantissa = np.where(shift > SHIFT_MAX, 0, np.where(shift < SHIFT_MIN, (1 << MULTIPLIER_BITS) - 1, mantissa))
    return mantissa.astype(np.uint32), saturate(shift, SHIFT_MIN, SHIFT_MAX).astype(np.uint8)


def requantize(
    acc: NDArray[np.int32],
    mantissa: ArrayLike,
    shift: ArrayLike,
    zero_point: ArrayLike,
    lo: ArrayLike,
    hi: ArrayLike,
) -> NDArray[np.int64]:
    """Scale accumulators to 8 bits as ONNX Runtime does: ``clamp(RNE(fl(fl(acc) * m)) + zero_point, lo, hi)``.

    fl rounds to float32. In integers, with ``m = mantissa * 2**-shift``:

    1. ``a = |acc|`` rounded to 24 significant bits, ties to even: fl(acc) without its sign.
    2. ``p = a * mantissa``, exact, at most 2**55. The value to round is ``v = p * 2**-shift``.
    3. RNE(fl(v)) in one step, by the tie band of :func:`_round_near_tie`.
    4. Sign, zero point, clamp. From v = 512 on the result saturates with every zero point.

    Parameters
    ----------
    acc : int32 array
        Accumulators, bias included, wrapped to 32 bits; -2**31 is legal.
    mantissa : integer, broadcast against `acc`
        As :func:`encode_multiplier` returns it: 0, or 2**23 to 2**24 - 1.
    shift : integer, broadcast against `acc`
        As :func:`encode_multiplier` returns it: 14 to 63.
    zero_point : integer, broadcast against `acc`
        -128 to 127, or 0 to 255 for an unsigned output.
    lo, hi : integer, broadcast against `acc`
        Bounds, both included, inside the output's type (the type of `zero_point`), ``lo <= hi``.

    Returns
    -------
    int64 array
        Values in [lo, hi].

    Raises
    ------
    TypeError
        If `acc` isn't int32.
    """
    acc = np.asarray(acc)
    if acc.dtype != np.int32:
        raise TypeError(f"Accumulators must be int32, not {acc.dtype}")
    mantissa = np.asarray(mantissa, dtype=np.int64)
    shift = np.asarray(shift, dtype=np.int64)

    scaled = _round_as_float32(_round_to_float32(acc) * mantissa, shift)
    scaled += np.asarray(zero_point, dtype=np.int64)
    return saturate(scaled, lo, hi)


def byte_of_sum(acc: NDArray[np.int32], byte: int) -> NDArray[np.int32]:
    """Return byte `byte` of accumulators, counted from the lowest: ``acc >> 8 * byte & 255``."""
    return (acc >> np.int32(8 * byte)) & np.int32(255)


def requantize_truncate(
    acc: NDArray[np.int32],
    mantissa: ArrayLike,
    offset: ArrayLike,
    shift: ArrayLike,
    zero_point: ArrayLike,
    lo: ArrayLike,
    hi: ArrayLike,
) -> NDArray[np.int64]:
    """Scale accumulators to 8 bits, rounding magnitudes down, without float32's product.

    ``clamp(sign(acc) * floor((|acc| * mantissa + offset * 2**OFFSET_SHIFT) / 2**shift) + zero_point, lo, hi)`` for
    ``|acc| < 2**24``. Greater magnitudes are rounded to 24 significant bits, ties to even, and both terms of the sum
    count multiples of the last of these bits, so that nothing decreases where |acc| grows.

    With ``lo >= zero_point`` everything negative is `lo`, and the result is that of rounding down:
    :func:`requantize_floor`, whose offsets :mod:`hwq.staircase` splits into `offset` and a bias.

    Parameters
    ----------
    acc : int32 array
        Accumulators, bias included, wrapped to 32 bits.
    mantissa : integer, broadcast against `acc`
        0 to 2**24 - 1.
    offset : integer, broadcast against `acc`
        0 to 2**12 - 1.
    shift, zero_point, lo, hi : integer, broadcast against `acc`
        As for :func:`requantize`.

    Returns
    -------
    int64 array
        Values in [lo, hi].
    """
    rounded = _round_to_float32(np.asarray(acc))
    magnitude = np.abs(rounded)
    unit = np.int64(1) << np.searchsorted(_SIGNIFICANT_POWERS, magnitude, side="right")
    product = magnitude * np.asarray(mantissa, dtype=np.int64)
    product += (np.asarray(offset, dtype=np.int64) << OFFSET_SHIFT) * unit
    whole = product >> np.asarray(shift, dtype=np.int64)
    return saturate(np.where(rounded < 0, -whole, whole) + np.asarray(zero_point, dtype=np.int64), lo, hi)


def requantize_floor(
    acc: NDArray[np.int32],
    multiplier: ArrayLike,
    offset: ArrayLike,
    shift: ArrayLike,
    zero_point: ArrayLike,
    lo: ArrayLike,
    hi: ArrayLike,
) -> NDArray[np.int64]:
    """Scale accumulators to 8 bits, rounding down.

    ``clamp(floor((acc * multiplier + offset) / 2**shift) + zero_point, lo, hi)``

    Parameters
    ----------
    acc : int32 array
    multiplier : integer, broadcast against `acc`
        0 to 2**24 - 1.
    offset : integer, broadcast against `acc`
        Signed 58 bits.
    shift : integer, broadcast against `acc`
        0 to 48.
    zero_point, lo, hi : integer, broadcast against `acc`
        As for :func:`requantize`.

    Returns
    -------
    int64 array
        Values in [lo, hi].
    """
    product = np.asarray(acc).astype(np.int64) * np.asarray(multiplier, dtype=np.int64)
    scaled = (product + np.asarray(offset, dtype=np.int64)) >> np.asarray(shift, dtype=np.int64)
    return saturate(scaled + np.asarray(zero_point, dtype=np.int64), lo, hi)


def requantize_add(
    a: ArrayLike,
    b: ArrayLike,
    factor_a: int,
    factor_b: int,
    offset: int,
    shift: int,
    lo: ArrayLike,
    hi: ArrayLike,
) -> NDArray[np.int64]:
    """Add two tensors of different scales: ``clamp(RNE(fl(total / 2**shift)), lo, hi)``.

    ``total = a * factor_a + b * factor_b + offset``, exact; fl rounds to float32.

    The integer form of a residual add: an exact sum, then the requantizer's rounding through float32, which sends
    what lies within half a float32 step of a tie to the even neighbour. QLinearAdd rounds its last sum so; plain
    RNE of the integer sum can't equal it where scale ratios make many sums exact ties but for float32's own errors.
    :func:`hwq.residual.fit_add` finds parameters for which the two are equal on every pair of operands.

    Parameters
    ----------
    a : int8 array
    b : int8 array, or integers of 17 bits
        The second operand, or a product of two.
    factor_a, factor_b : int
        Signed 26 bits.
    offset : int
        Signed 40 bits; holds all three zero points.
    shift : int
        0 to 31.
    lo, hi : integer
        Bounds, both included, in -128 to 127.

    Returns
    -------
    int64 array
        Values in [lo, hi].
    """
    total = np.asarray(a, dtype=np.int64) * factor_a + np.asarray(b, dtype=np.int64) * factor_b + offset
    # One more bit on both sides of the division, so that the shift is at least 1.
    return saturate(_round_as_float32(total << 1, np.asarray(shift + 1, dtype=np.int64)), lo, hi)


def _round_to_float32(acc: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return fl(acc): rounded to 24 significant bits, ties to even, where it has more."""
    wide = acc.astype(np.int64)
    if max(int(acc.max(initial=0)), -int(acc.min(initial=0))) >> MULTIPLIER_BITS:
        magnitude = np.abs(wide)
        excess_bits = np.searchsorted(_SIGNIFICANT_POWERS, magnitude, side="right")
        magnitude = rounding_shift(magnitude, excess_bits) << excess_bits
        wide = np.where(wide < 0, -magnitude, magnitude)
    return wide


def _round_as_float32(p: NDArray[np.int64], shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round ``v = p * 2**-shift`` to float32 and then to an integer: ``RNE(fl(v))``.

    Away from the ties that is ``floor(v + 1/2)``. Only next to them, where :func:`_round_near_tie` has a band of at
    most 2**-16 on either side, does float32 matter; these elements are few, and are done again one by one.

    Parameters
    ----------
    p : int64 array
        -2**61 to 2**61.
    shift : int64, broadcast against `p`
        1 to 63.

    Returns
    -------
    int64 array
        Exact where |v| < 512; beyond, it is beyond every 8-bit range, and on v's side.
    """
    from_tie = np.asarray(p + (np.int64(1) << (shift - 1)))
    rounded = np.asarray(from_tie >> shift)
    widest_band = (np.int64(1) << np.maximum(shift - 15, 0)) >> 1
    # Modulo 2**shift, a tie is now at the band's middle, so one comparison finds both its sides.
    from_tie += widest_band
    from_tie &= ~(np.int64(-1) << shift)
    near = np.flatnonzero(from_tie <= 2 * widest_band)
    if near.size:
        signed = np.broadcast_to(p, rounded.shape).flat[near]
        magnitude = _round_near_tie(np.abs(signed), np.broadcast_to(shift, rounded.shape).flat[near])
        rounded.flat[near] = np.where(signed < 0, -magnitude, magnitude)
    return rounded


def _round_near_tie(p: NDArray[np.int64], shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round ``v = p * 2**-shift``, not negative, to float32 and then to an integer: ``RNE(fl(v))``, at most 512.

    With ``i = floor(v)``, ``f = v - i``, ``e = floor(log2(i))`` (-1 where i = 0) and the tie band
    ``h = 2**(e - 24)``, the result is ``i + 1`` where ``f > 1/2 + h``, or where ``|f - 1/2| <= h`` and i is odd;
    else it is i.

    This is two roundings in one. For 1 <= v < 512, e is v's octave, in which float32 numbers are 2**(e - 23) = 2h
    apart, and ``i + 1/2`` is one of them, inside the octave and with an even significand (e <= 8 < 22). So fl(v) is
    ``i + 1/2`` exactly where ``|f - 1/2| <= h``, both ends included because a tie of the first rounding goes to the
    even significand, and the second rounding goes to even. Outside the band fl(v) is on v's side of ``i + 1/2`` and
    not beyond the next integer. For v < 1, i = 0 is even, so only the band's upper end matters; it lies above 1/2,
    where v's octave is -1, as defined, and the same argument holds, since 1/2 has an even significand too; v <= 1/2
    gives fl(v) <= 1/2, hence 0.

    Parameters
    ----------
    p : int64 array
        0 to 2**62.
    shift : int64, broadcast against `p`
        1 to 63.

    Returns
    -------
    int64 array
        0 to 512: v >= 512 gives 511 or 512, both beyond every 8-bit range.
    """
    whole = p >> shift
    from_half = p - (whole << shift) - (np.int64(1) << (shift - 1))
    octave = _OCTAVE[np.minimum(whole, 511)]
    # h in units of 2**-shift; where that is below 1 only the exact tie is in the band.
    band = (np.int64(1) << np.maximum(shift + octave - 23, 0)) >> 1
    odd = whole & 1
    round_up = from_half > band - odd * (2 * band + 1)
    return np.minimum(whole, 511) + round_up
