"""The residual add: two tensors of different scales to a third."""

from amaranth.hdl import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.pipeline import delayed
from rtl.rounder import Rounder

__all__ = ["PRODUCT_BITS", "ResidualAdd"]

PRODUCT_BITS = 17
"""Bits of a product of two bytes less their zero points."""

# |a * factor| <= 2**32, |b * factor| <= 2**41 and |offset| <= 2**39 add up to less than 2**42.
_MAGNITUDE_BITS = 42
_LOW_BITS = 13
_SHIFT_MAX = 31


class ResidualAdd(wiring.Component):
    """Scale two operands, add and round; twin of :func:`hwq.fixed.requantize_add`, one lane.

    ``o = clamp(RNE(fl((i_a * factor_a + i_b * factor_b + offset) / 2**shift)), lo, hi)``, fl rounding to float32.
    Stages:

    ===== ==========================================================================
    1     operands times the factors' halves, of 13 bits each
    2     sum of the low products, sum of the high products
    3     offset added to the high one
    4     the two added
    5     magnitude and sign
    6-9   shifted, rounded, sign applied (:class:`~rtl.rounder.Rounder`)
    10    clamp
    ===== ==========================================================================

    Bare signals: it sits inside the post-processing pipeline, which never stalls; a valid bit travels beside it.

    Latency: 10 cycles (`LATENCY`). Throughput: one result a cycle. Backpressure: none.

    Members
    -------
    i_a : In(signed(8))
    i_b : In(signed(17))
        Operands; the second may be a product.
    i_factor_a, i_factor_b : In(signed(26))
    i_offset : In(signed(40))
    i_shift : In(5)
    i_lo, i_hi : In(signed(8))
        Parameters as :func:`hwq.residual.fit_add` returns them, and bounds, ``i_lo <= i_hi``. Constants of a
        descriptor, not delayed with the operands: they must not change while a pair is on its way.
    o : Out(signed(8))
        Result of the operands `LATENCY` cycles ago.
    """

    LATENCY = 5 + Rounder.LATENCY + 1

    i_a: In(signed(8))
    i_b: In(signed(PRODUCT_BITS))
    i_factor_a: In(signed(26))
    i_factor_b: In(signed(26))
    i_offset: In(signed(40))
    i_shift: In(range(_SHIFT_MAX + 1))
    i_lo: In(signed(8))
    i_hi: In(signed(8))
    o: Out(signed(8))

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        m.submodules.rounder = rounder = Rounder(width=_MAGNITUDE_BITS, shift_min=0, shift_max=_SHIFT_MAX)

        # Halves fit one DSP block each: the low one is unsigned, the high one carries the sign.
        low_a = delayed(m, self.i_a * self.i_factor_a[:_LOW_BITS], 1)
        low_b = delayed(m, self.i_b * self.i_factor_b[:_LOW_BITS], 1)
        high_a = delayed(m, self.i_a * self.i_factor_a[_LOW_BITS:].as_signed(), 1)
        high_b = delayed(m, self.i_b * self.i_factor_b[_LOW_BITS:].as_signed(), 1)
        low = delayed(m, low_a + low_b, 2)
        high = delayed(m, high_a + high_b, 1)
        partial = delayed(m, (high << _LOW_BITS) + self.i_offset, 1)
        total = delayed(m, (partial + low)[: _MAGNITUDE_BITS + 1], 1)

        negative = total[-1]
        magnitude = delayed(m, ((total ^ negative.replicate(len(total))) + negative)[:_MAGNITUDE_BITS], 1)
        m.d.comb += [
            rounder.i_magnitude.eq(magnitude),
            rounder.i_negative.eq(delayed(m, negative, 1)),
            rounder.i_excess.eq(self.i_shift),
        ]

        clamped = Mux(
            rounder.o < self.i_lo, self.i_lo, Mux(rounder.o > self.i_hi, self.i_hi, rounder.o[:8].as_signed())
        )
        m.d.comb += self.o.eq(delayed(m, clamped, 1))
        return m
