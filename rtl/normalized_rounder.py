"""Rounding a normalized product through float32 at a binary point."""

import functools
import operator

from amaranth.hdl import C, Cat, Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq.fixed import MULTIPLIER_BITS
from rtl.pipeline import delayed

__all__ = ["NormalizedRounder"]

_WIDTH = 2 * MULTIPLIER_BITS
_WHOLE_BITS = 8
_WINDOWS = 7


class NormalizedRounder(wiring.Component):
    """Round a product to float32, then to an integer, apply the sign, add and clamp.

    ``o = clamp(±RNE(fl(i_product * 2**-shift)) + i_zero_point, i_lo, i_hi)``, ``shift = i_shift - 8``, for products of
    two numbers that are each 2**23 to 2**24 - 1, or 0.

    With `i_truncate` any product is rounded down instead: ``±floor(i_product * 2**-shift)``.

    Only at a shift of 39 to 48 is there something to round: below, the result is beyond every byte, above, it is 0. The
    two roundings are one. With q the product's 24 bits from its first 1, g the bit after them and s whether ones
    follow, float32 has q, or q + 1 where g is 1 and s is or q is odd. With i the integer part of q, h its first
    fraction bit and r the others, at least 14, the result is i + 1

    - where h is 1, and r isn't 0, or g and s are 1, or i is odd: beyond one half, or a tie,
    - where h is 0, r all ones, g is 1 and i odd: float32 makes it a tie,

    else i.

    Registers: bits around the point, in steps of 8; the integer; sum and comparisons; the result.

    Bare signals: it sits inside a pipeline that never stalls.

    Latency: 4 cycles (`LATENCY`). Throughput: one result a cycle. Backpressure: none.

    Members
    -------
    i_product : In(48)
    i_shift : In(7)
        14 and more; taken a cycle before the product.
    i_negative, i_truncate : In(1)
    i_zero_point, i_lo, i_hi : In(signed(8))
        Taken 1 to 3 cycles after the product.
    o : Out(signed(8))
    """

    LATENCY = 4

    i_product: In(_WIDTH)
    i_shift: In(7)
    i_negative: In(1)
    i_truncate: In(1)
    i_zero_point: In(signed(8))
    i_lo: In(signed(8))
    i_hi: In(signed(8))
    o: Out(signed(8))

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        product, top = self.i_product, self.i_product[-1]
        # With shift = 8 * c + f, coarse is c + 1 and fine f. From 39 to 48, mask has as many ones as the shift exceeds
        # 39 by: on the bits below h, and above those that are always below it.
        fine, coarse = self.i_shift[:3], self.i_shift[3:]
        mask = [coarse[1] & (coarse[0] | (fine >= n)) for n in range(8)]
        mask = delayed(m, Cat(mask, coarse[:2].all()), 1)
        window_at = delayed(m, Cat(coarse == c + 1 for c in range(_WINDOWS)), 1)
        window_below = delayed(m, Cat(coarse <= c + 1 for c in range(_WINDOWS - 2)), 1)
        fine = delayed(m, fine, 2)

        padded = Cat(C(0, 1), product, C(0, 16))  # a window begins at the bit below 8 * c
        windows = [padded[8 * c : 8 * c + 16] & window_at[c].replicate(16) for c in range(_WINDOWS)]
        window = delayed(m, functools.reduce(operator.or_, windows), 1)
        bytes_above = Cat(product[8 * c + 15 : 8 * c + 23].any() for c in range(len(window_below)))
        beyond = delayed(m, (bytes_above & window_below).any(), 1)
        near, far = product[38:47], product[24:38]
        nothing = ~(far.any() | (near & mask).any() | (product[23] & ~top))
        ones = far.all() & (near | ~mask).all() & (product[23] | top)
        after, follow = Mux(top, product[23], product[22]), product[:22].any() | (product[22] & top)
        above_half = delayed(m, ~nothing | (after & follow), 1)
        reaches_half = delayed(m, ones & after & ~self.i_truncate, 1)
        negative, truncate = delayed(m, self.i_negative, 1), delayed(m, self.i_truncate, 1)

        shifted = (window >> fine)[: _WHOLE_BITS + 1]
        half, whole = shifted[0] & ~truncate, shifted[1:]
        up = Mux(half, above_half | whole[0], reaches_half & whole[0])
        beyond = beyond | Cat(window[n + _WHOLE_BITS + 1] & (fine <= n) for n in range(7)).any()
        # -(i + up) is ~i + ~up, so one adder serves both signs
        bits = delayed(m, Cat(whole ^ negative.replicate(_WHOLE_BITS), negative), 1).as_signed()
        unit, beyond, negative = (delayed(m, bit, 1) for bit in (up ^ negative, beyond, negative))

        # The bounds less the zero point, so that clamping doesn't wait for the sum; the differences are signs.
        to_least = delayed(m, self.i_zero_point - self.i_lo, 1)
        to_most = delayed(m, self.i_zero_point - self.i_hi - 1, 1)
        zero_point = delayed(m, self.i_zero_point, 1)
        total = delayed(m, (bits + zero_point + unit)[:8], 1)
        below = delayed(m, Mux(beyond, negative, bits + to_least + unit < 0), 1)
        above = delayed(m, beyond | (bits + to_most + unit >= 0), 1)  # where it isn't below
        m.d.comb += self.o.eq(delayed(m, Mux(below, self.i_lo, Mux(above, self.i_hi, total)), 1).as_signed())
        return m
