"""The requantizer: from a 32-bit accumulator to the 8-bit output of ONNX Runtime, bit for bit."""

from amaranth.hdl import Cat, Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq.fixed import MULTIPLIER_BITS, OFFSET_BITS, OFFSET_SHIFT, SHIFT_MAX
from hwq.isa import PARAM, TRUNCATE_PARAM
from rtl.layouts import field_slice
from rtl.multiplier import PipelinedMultiplier
from rtl.normalized_rounder import NormalizedRounder
from rtl.normalizer import Normalizer
from rtl.pipeline import delayed

__all__ = ["Requantizer"]

_ACC_BITS = 32
_BIAS, _OFFSET_LOW = TRUNCATE_PARAM[:2]
_OFFSET_HIGH = PARAM[-1]


class Requantizer(wiring.Component):
    """Add the bias, scale, round, add the zero point and clamp; twin of :func:`hwq.fixed.requantize`, one lane.

    ``o = clamp(RNE(fl(fl(acc) * m)) + zero_point, lo, hi)`` with ``acc = i_acc + i_bias`` wrapped to 32 bits,
    ``m = i_mantissa * 2**-i_shift`` and fl rounding to float32. With `i_truncate` it is the twin of
    :func:`hwq.fixed.requantize_truncate`, and `i_bias` holds a shorter bias and an offset of the product. Stages:

    ===== ==========================================================================
    1     acc + bias, or a byte of it
    2-5   first 24 bits of the magnitude (:class:`~rtl.normalizer.Normalizer`)
    6-10  times mantissa, offset added (:class:`~rtl.multiplier.PipelinedMultiplier`)
    11-14 rounded, sign, zero point and clamp (:class:`~rtl.normalized_rounder.NormalizedRounder`)
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
    i_bytewise : In(1)
        ``(acc >> 8 * i_byte & 255) - 128`` takes the place of ``acc``; taken with the accumulator.
    i_byte : In(2)
    i_zero_point : In(signed(8))
    i_lo, i_hi : In(signed(8))
        Output zero point and bounds; taken `LATENCY` - 3 cycles after the accumulator and
        in the cycle after that.
    o : Out(signed(8))
        Result of the inputs `LATENCY` cycles ago.
    """

    LATENCY = 5 + PipelinedMultiplier.LATENCY + NormalizedRounder.LATENCY

    i_acc: In(signed(_ACC_BITS))
    i_bias: In(signed(_ACC_BITS))
    i_offset_high: In(_OFFSET_HIGH.width)
    i_mantissa: In(MULTIPLIER_BITS)
    i_shift: In(range(SHIFT_MAX + 1))
    i_zero_point: In(signed(8))
    i_lo: In(signed(8))
    i_hi: In(signed(8))
    i_truncate: In(1)
    i_bytewise: In(1)
    i_byte: In(2)
    o: Out(signed(8))

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        m.submodules.normalizer = normalizer = Normalizer(_ACC_BITS)
        m.submodules.multiplier = multiplier = PipelinedMultiplier(
            width_a=MULTIPLIER_BITS, width_b=MULTIPLIER_BITS, width_c=OFFSET_BITS
        )
        assert multiplier.offset_shift == OFFSET_SHIFT, multiplier.offset_shift
        m.submodules.rounder = rounder = NormalizedRounder()

        bias = Mux(self.i_truncate, field_slice(_BIAS, self.i_bias), self.i_bias)
        offset = Mux(self.i_truncate, Cat(field_slice(_OFFSET_LOW, self.i_bias), self.i_offset_high), 0)
        acc = (self.i_acc + bias)[:_ACC_BITS]
        byte = acc.word_select(self.i_byte, 8) ^ 128  # less 128, as a signed byte
        acc = Mux(self.i_bytewise, byte.as_signed(), acc.as_signed())
        normalized, multiplied = 1 + normalizer.latency, PipelinedMultiplier.LATENCY
        m.d.comb += [
            normalizer.i.eq(delayed(m, acc[:_ACC_BITS], 1)),
            normalizer.i_hold.eq(delayed(m, self.i_truncate, 1)),
            multiplier.i_a.eq(normalizer.o),
            multiplier.i_b.eq(delayed(m, self.i_mantissa, normalized - 1)),
            multiplier.i_c.eq(delayed(m, offset, normalized - 1)),
        ]
        # The magnitude is o * 2**(7 + o_carry - o_shift), and the rounder's shift counts from 8 below 0.
        shift = delayed(m, self.i_shift, normalized) + normalizer.o_shift + ~normalizer.o_carry
        m.d.comb += [
            rounder.i_product.eq(multiplier.o),
            rounder.i_shift.eq(delayed(m, shift[:7], multiplied - 1)),
            rounder.i_negative.eq(delayed(m, normalizer.o_negative, multiplied)),
            rounder.i_truncate.eq(delayed(m, self.i_truncate, normalized + multiplied)),
            rounder.i_zero_point.eq(self.i_zero_point),
            rounder.i_lo.eq(self.i_lo),
            rounder.i_hi.eq(self.i_hi),
            self.o.eq(rounder.o),
        ]
        return m
