"""The residual add: two tensors of different scales to a third."""

from amaranth.hdl import Module, Mux, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.multiplier import RowMultiplier
from rtl.pipeline import delayed
from rtl.primitives import Multiplier, Negator
from rtl.rounder import Rounder

__all__ = ["PRODUCT_BITS", "ResidualAdd"]

PRODUCT_BITS = 17
"""Bits of a product of two bytes less their zero points."""

# |a * factor| <= 2**32, |b * factor| <= 2**41 and |offset| <= 2**39 add up to less than 2**42.
_MAGNITUDE_BITS = 42
_LOW_BITS = 26 - Multiplier.WIDEST
_SHIFT_MAX = 31


class ResidualAdd(wiring.Component):
    """Scale two operands, add and round; twin of :func:`hwq.fixed.requantize_add`, one lane.

    ``o = clamp(RNE(fl((i_a * factor_a + i_b * factor_b + offset) / 2**shift)), lo, hi)``, fl rounding to float32.
    Stages:

    ===== ==========================================================================
    1-3   operands times the factors' upper 18 bits, and times the lower 8
    4     sum of the low products, sum of the high products
    5     offset added to the high one
    6     the two added
    7     magnitude and sign
    8-11  shifted, rounded, sign applied (:class:`~rtl.rounder.Rounder`)
    12    clamp
    ===== ==========================================================================

    Bare signals: it sits inside the post-processing pipeline, which never stalls; a valid bit travels beside it.

    Latency: 12 cycles (`LATENCY`). Throughput: one result a cycle. Backpressure: none.

    Members
    -------
    i_a : In(signed(8))
    i_b : In(signed(17))
        Operands; the second may be a product.
    i_factor_a, i_factor_b : In(signed(26))
    i_offset : In(signed(40))
    i_shift : In(5)
    i_lo, i_hi : In(signed(8))
        Parameters as :func:`hwq.residual.fit_add` returns them, and bounds. Constants of a
        descriptor, not delayed with the operands: they must not change while a pair is on its way.
    o : Out(signed(8))
        Result of the operands `LATENCY` cycles ago.
    """

    LATENCY = Multiplier.LATENCY + 4 + Rounder.LATENCY + 1

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

        # The upper 18 bits of a factor, signed, fit one DSP block. The lower ones, unsigned, take another one where the
        # operand is wide, and are added up by rows where it is a byte.
        high, low = [], []
        for name, operand, factor, lower_by in (
            ("a", self.i_a, self.i_factor_a, RowMultiplier),
            ("b", self.i_b, self.i_factor_b, Multiplier),
        ):
            upper = factor[_LOW_BITS:].as_signed()
            m.submodules[f"high_{name}"] = by_upper = Multiplier(operand.shape(), upper.shape())
            m.submodules[f"low_{name}"] = by_lower = lower_by(operand.shape(), unsigned(_LOW_BITS))
            m.d.comb += [
                by_upper.i_a.eq(operand),
                by_upper.i_b.eq(upper),
                by_lower.i_a.eq(operand),
                by_lower.i_b.eq(factor[:_LOW_BITS]),
            ]
            high.append(by_upper.o)
            low.append(by_lower.o)
        lower = delayed(m, low[0] + low[1], 2)
        upper = delayed(m, high[0] + high[1], 1)
        partial = delayed(m, (upper << _LOW_BITS) + self.i_offset, 1)
        total = delayed(m, (partial + lower)[: _MAGNITUDE_BITS + 1], 1)

        negative = total[-1]
        m.submodules.negator = negator = Negator(_MAGNITUDE_BITS)
        m.d.comb += [
            negator.i.eq(total),
            negator.i_negate.eq(negative),
            rounder.i_magnitude.eq(delayed(m, negator.o, 1)),
            rounder.i_negative.eq(delayed(m, negative, 1)),
            rounder.i_excess.eq(self.i_shift),
        ]

        clamped = Mux(
            rounder.o < self.i_lo, self.i_lo, Mux(rounder.o > self.i_hi, self.i_hi, rounder.o[:8].as_signed())
        )
        m.d.comb += self.o.eq(delayed(m, clamped, 1))
        return m
