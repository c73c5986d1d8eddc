"""The requantizer of small arrays: in lookup tables alone, with as few registers as the clock of such arrays needs."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq.fixed import MULTIPLIER_BITS, SHIFT_MAX
from rtl.digit_multiplier import DigitMultiplier
from rtl.pipeline import delayed
from rtl.primitives import Negator

__all__ = ["SmallRequantizer"]

_LEAST_SHIFT = 39
_STEPS = 10


class SmallRequantizer(wiring.Component):
    """Add the bias, scale, round, add the zero point and clamp; twin of :func:`hwq.fixed.requantize`, one lane.

    ``o = clamp(RNE(fl(acc * m)) + zero_point, lo, hi)`` with ``acc = i_acc + i_bias`` wrapped to 24 bits,
    ``m = i_mantissa * 2**-i_shift`` and fl rounding to float32; of 24 bits fl(acc) is acc.

    With a the magnitude of acc, shifted to the left until its first bit is 1, p = a * mantissa is 2**46 to 2**48 - 1,
    or 0, and the value is ``p * 2**-s``: below a shift s of 39 it is beyond every byte, above 48 it is 0, and between
    these the two roundings are one, as `rtl.normalized_rounder.NormalizedRounder` says. Stages:

    ==== ==========================================================
    1, 2 acc + bias; magnitude
    3, 4 shifted by 16 and 8; by 4, 2 and 1
    5-8  times mantissa
    9    integer, first fraction bit, how the others compare
    10   rounded, sign, zero point
    11   clamp
    ==== ==========================================================

    Bare signals: it sits inside a pipeline that never stalls.

    Latency: 11 cycles (`LATENCY`). Throughput: one result a cycle. Backpressure: none.

    Members
    -------
    i_acc, i_bias : In(signed(24))
    i_mantissa : In(24)
    i_shift : In(6)
        Multiplier, as :func:`hwq.fixed.encode_multiplier` returns it; taken `LATE` cycles after the others.
    i_zero_point, i_lo, i_hi : In(signed(8))
        Output zero point and bounds; they must not change while a result is on its way.
    o : Out(signed(8))
        Result of the sum `LATENCY` cycles ago.
    """

    LATENCY = 11
    LATE = 5

    i_acc: In(signed(MULTIPLIER_BITS))
    i_bias: In(signed(MULTIPLIER_BITS))
    i_mantissa: In(MULTIPLIER_BITS)
    i_shift: In(range(SHIFT_MAX + 1))
    i_zero_point: In(signed(8))
    i_lo: In(signed(8))
    i_hi: In(signed(8))
    o: Out(signed(8))

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        total = delayed(m, (self.i_acc + self.i_bias)[:MULTIPLIER_BITS], 1)
        m.submodules.negator = negator = Negator(MULTIPLIER_BITS)
        m.d.comb += [negator.i.eq(total), negator.i_negate.eq(total[-1])]
        bits, shifts, negative = delayed(m, negator.o, 1), [], delayed(m, total[-1], 1)
        for stage in ((16, 8), (4, 2, 1)):
            for distance in stage:
                far = Signal(name=f"far_{distance}")
                m.d.comb += far.eq(~bits[-distance:].any())
                bits = Mux(far, bits << distance, bits)[:MULTIPLIER_BITS]
                shifts.append(far)
            bits, shifts = delayed(m, bits, 1), [delayed(m, bit, 1) for bit in shifts]
        # beside the product, by how much the shift exceeds the least one that counts
        excess = delayed(m, self.i_shift + delayed(m, Cat(reversed(shifts)), 1) - _LEAST_SHIFT, 1)
        scaled = delayed(m, self.i_mantissa[-1], 1)  # or else the mantissa is 0
        beyond, nothing = delayed(m, (excess < 0) & scaled, 2), delayed(m, excess >= _STEPS, 2)
        excess = delayed(m, excess[:4], 2)
        # a is even: it has been shifted, or is 2**23
        m.submodules.multiplier = multiplier = DigitMultiplier(
            width_a=MULTIPLIER_BITS, width_b=MULTIPLIER_BITS - 1, levels=2
        )
        m.d.comb += [multiplier.i_a.eq(self.i_mantissa), multiplier.i_b.eq(bits[1:])]
        product = Cat(C(0, 1), multiplier.o)
        negative = delayed(m, negative, 6) & ~nothing

        window = (product[38:] >> excess)[:10] & (~nothing).replicate(10)
        half, odd = delayed(m, window[0], 1), delayed(m, window[1], 1)
        # all below the first fraction bit: masked, what lies above it where the shift is less; the 24 bits from the
        # product's first 1 on are float32's
        top, mask = product[47], Cat(excess > n for n in range(9))
        near, far = product[38:47], product[24:38]
        some = far.any() | (near & mask).any() | (product[23] & ~top)
        ones = far.all() & (near | ~mask).all() & (product[23] | top)
        after, follow = Mux(top, product[23], product[22]), product[:22].any() | (product[22] & top)
        above_half = delayed(m, some | (after & follow), 1)
        reaches_half = delayed(m, ones & after, 1)
        up = Mux(half, above_half | odd, reaches_half & odd)

        # -(i + up) is ~i + ~up, so one adder serves both signs
        signed_bits = delayed(m, Cat(window[1:], beyond & ~nothing) ^ negative.replicate(10), 1)
        negative = delayed(m, negative, 1)
        total = Cat(signed_bits, negative).as_signed() + self.i_zero_point + (up ^ negative)
        total = delayed(m, total, 1)
        clamped = Mux(total < self.i_lo, self.i_lo, Mux(total > self.i_hi, self.i_hi, total[:8].as_signed()))
        m.d.comb += self.o.eq(delayed(m, clamped, 1))
        return m
