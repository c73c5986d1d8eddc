"""The requantizer: from a 32-bit accumulator to the 8-bit output of ONNX Runtime, bit for bit."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq.fixed import MULTIPLIER_BITS, OFFSET_BITS, OFFSET_SHIFT, SHIFT_MAX, SHIFT_MIN
from hwq.isa import PARAM, TRUNCATE_PARAM
from rtl.layouts import field_slice
from rtl.multiplier import PipelinedMultiplier
from rtl.pipeline import delayed
from rtl.primitives import Negator
from rtl.rounder import Rounder

__all__ = ["Requantizer"]

_ACC_BITS = 32
_EXCESS_MAX = _ACC_BITS - MULTIPLIER_BITS
_BIAS, _OFFSET_LOW = TRUNCATE_PARAM[:2]
_OFFSET_HIGH = PARAM[-1]


class Requantizer(wiring.Component):
    """Add the bias, scale, round, add the zero point and clamp; twin of :func:`hwq.fixed.requantize`, one lane.

    ``o = clamp(RNE(fl(fl(acc) * m)) + zero_point, lo, hi)`` with ``acc = i_acc + i_bias`` wrapped to 32 bits,
    ``m = i_mantissa * 2**-i_shift`` and fl rounding to float32. With `i_truncate` it is the twin of
    :func:`hwq.fixed.requantize_truncate`, and `i_bias` holds a shorter bias and an offset of the product. Stages:

    ===== ==========================================================================
    1     acc + bias
    2     magnitude and sign
    3     bits of the magnitude beyond 24: k, 0 to 8
    4     magnitude shifted right by k; shift less k
    5-9   rounded to 24 bits, times mantissa, offset added (:class:`~rtl.multiplier.PipelinedMultiplier`)
    10-13 shifted, rounded, sign applied (:class:`~rtl.rounder.Rounder`)
    14    zero point and clamp
    ===== ==========================================================================

    Bare signals: it sits inside the post-processing pipeline, which never stalls; a valid bit travels beside it.

    Latency: 14 cycles (`LATENCY`). Throughput: one result a cycle. Backpressure: none.

    Members
    -------
    i_acc : In(signed(32))
        Accumulator.
    i_bias : In(signed(32))
        Bias; the sum wraps. With `i_truncate`, a shorter one and bits of the offset, as `hwq.isa.TRUNCATE_PARAM` has
        them.
    i_offset_high : In(2)
        The offset's other bits.
    i_mantissa : In(24)
    i_shift : In(6)
        Multiplier, as :func:`hwq.fixed.encode_multiplier` returns it: 0 or 2**23 to 2**24 - 1, and 14 to 63. They
        are taken in the same cycle as the accumulator, since neighbouring accumulators belong to different
        channels.
    i_truncate : In(1)
        Rounding, taken with the accumulator.
    i_zero_point : In(signed(8))
    i_lo, i_hi : In(signed(8))
        Output zero point and bounds, ``i_lo <= i_hi``; taken `LATENCY` - 2 cycles after the accumulator and in the
        cycle after that.
    o : Out(signed(8))
        Result of the inputs `LATENCY` cycles ago.
    """

    LATENCY = 4 + PipelinedMultiplier.LATENCY + Rounder.LATENCY + 1

    i_acc: In(signed(_ACC_BITS))
    i_bias: In(signed(_ACC_BITS))
    i_offset_high: In(_OFFSET_HIGH.width)
    i_mantissa: In(MULTIPLIER_BITS)
    i_shift: In(range(SHIFT_MAX + 1))
    i_zero_point: In(signed(8))
    i_lo: In(signed(8))
    i_hi: In(signed(8))
    i_truncate: In(1)
    o: Out(signed(8))

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        m.submodules.multiplier = multiplier = PipelinedMultiplier(
            width_a=MULTIPLIER_BITS, width_b=MULTIPLIER_BITS, width_c=OFFSET_BITS
        )
        assert multiplier.offset_shift == OFFSET_SHIFT, multiplier.offset_shift
        m.submodules.rounder = rounder = Rounder(
            width=2 * MULTIPLIER_BITS, shift_min=SHIFT_MIN - _EXCESS_MAX, shift_max=SHIFT_MAX
        )

        bias = Mux(self.i_truncate, field_slice(_BIAS, self.i_bias), self.i_bias)
        offset = Mux(self.i_truncate, Cat(field_slice(_OFFSET_LOW, self.i_bias), self.i_offset_high), 0)
        acc = delayed(m, (self.i_acc + bias)[:_ACC_BITS], 1)
        negative = acc[-1]
        # in 32 unsigned bits, so that -2**31 has a magnitude
        m.submodules.negator = negator = Negator(_ACC_BITS)
        m.d.comb += [negator.i.eq(acc), negator.i_negate.eq(negative)]
        magnitude = delayed(m, negator.o, 1)
        m.d.comb += rounder.i_negative.eq(delayed(m, negative, 3 + PipelinedMultiplier.LATENCY))

        excess = Signal(range(_EXCESS_MAX + 1), reset_less=True)
        m.d.sync += excess.eq(0)
        for n in range(_EXCESS_MAX):
            with m.If(magnitude[MULTIPLIER_BITS + n]):
                m.d.sync += excess.eq(n + 1)
        magnitude = delayed(m, magnitude, 1)

        aligned = Cat(C(0, _EXCESS_MAX), magnitude) >> excess
        sticky, guard, kept = (
            aligned[: _EXCESS_MAX - 1].any(),
            aligned[_EXCESS_MAX - 1],
            aligned[_EXCESS_MAX:_ACC_BITS],
        )
        round_up = delayed(m, guard & (sticky | kept[0]), 1)
        kept = delayed(m, kept, 1)
        # The shift's range is 6 to 63 once k is taken off, so the rounder counts from 6.
        shift_excess = delayed(
            m, (delayed(m, self.i_shift, 3) - excess - rounder.shift_min)[: len(rounder.i_excess)], 1
        )

        rounded = kept + round_up
        # 2**24 is 2**23 with one more bit taken off; below the carry all bits are then zero.
        carry = rounded[MULTIPLIER_BITS]
        significand = Cat(rounded[: MULTIPLIER_BITS - 1], rounded[MULTIPLIER_BITS - 1] | carry)
        m.d.comb += [
            multiplier.i_a.eq(significand),
            multiplier.i_b.eq(delayed(m, self.i_mantissa, 4)),
            multiplier.i_c.eq(delayed(m, offset, 4)),
            rounder.i_truncate.eq(delayed(m, self.i_truncate, 4 + PipelinedMultiplier.LATENCY)),
            rounder.i_magnitude.eq(multiplier.o),
            rounder.i_excess.eq(delayed(m, (shift_excess - carry)[: len(shift_excess)], PipelinedMultiplier.LATENCY)),
        ]

        # The bounds less the zero point, so that clamping doesn't wait for the sum.
        least = delayed(m, self.i_lo - self.i_zero_point, 1)
        most = delayed(m, self.i_hi - self.i_zero_point, 1)
        shifted = (rounder.o + self.i_zero_point)[:8].as_signed()
        clamped = Mux(rounder.o < least, self.i_lo, Mux(rounder.o > most, self.i_hi, shifted))
        m.d.comb += self.o.eq(delayed(m, clamped, 1))
        return m
