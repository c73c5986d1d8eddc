"""Properties of the output path's arithmetic: what rounds, clamps and multiplies."""

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, C, Cat, Cover, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq.fixed import MULTIPLIER_BITS, OFFSET_BITS, OFFSET_SHIFT
from hwq.isa import PARAM, TRUNCATE_PARAM
from rtl.layouts import field_slice
from rtl.multiplier import PipelinedMultiplier
from rtl.pipeline import delayed
from tests.proofs.harness import drive, proof, since_reset


def named(m: Module, value: Value, name: str) -> Signal:
    """Return a signal of `value`."""
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


def leading(m: Module, value: Value, name: str) -> Signal:
    """Return the place of the highest 1 of `value`, 0 where there is none."""
    place = Signal(range(len(value)), name=name)
    for bit in range(len(value)):
        with m.If(value[bit]):
            m.d.comb += place.eq(bit)
    return place


def rounded_off(value: Value, count: Value) -> Value:
    """Return ``RNE(value / 2**count)``, ties to even."""
    whole = value >> count
    rest = value - (whole << count)[: len(value)]
    twice, unit = rest << 1, C(1) << count
    return whole + ((twice > unit) | ((twice == unit) & whole[0]))


def as_float32(m: Module, value: Value, name: str) -> Value:
    """Return unsigned `value` rounded to 24 significant bits, ties to even."""
    place = leading(m, value, f"{name}_place")
    excess = named(m, Mux(place > 23, place - 23, 0)[: len(place)], f"{name}_excess")
    return named(m, (rounded_off(value, excess) << excess)[: len(value) + 1], name)


def clamped(value: Value, lo: Value, hi: Value) -> Value:
    """Return `value`, but at least `lo` and at most `hi`."""
    return Mux(value < lo, lo, Mux(value > hi, hi, value))


@proof("rtl.normalizer", bug=("guard | (~follow & kept[0])", "guard"), depth=5)
def normalizer_rounds_to_float32(m, rtl):
    """|i| rounded to 24 significant bits, ties to even, is o * 2**(7 + o_carry - o_shift), for all 32-bit numbers."""
    m.submodules.dut = dut = rtl.Normalizer(32)
    drive(m, dut)
    magnitude = named(m, abs(dut.i)[:32], "magnitude")
    want = delayed(m, as_float32(m, magnitude, "want"), dut.latency)
    hold, negative = delayed(m, dut.i_hold, dut.latency), delayed(m, dut.i[-1], dut.latency)
    got = named(m, (dut.o << 7 << dut.o_carry) >> dut.o_shift, "got")
    exact = (delayed(m, magnitude, dut.latency) >> 24) == 0
    kept = Mux(hold, dut.o_shift <= 7, (dut.o == 0) | dut.o[-1])
    with m.If(since_reset(m, dut.latency) & (~hold | exact)):
        m.d.comb += [
            Assert(got == want),
            Assert(dut.o_negative == negative),
            Assert(kept),
        ]
    m.d.comb += [Cover(dut.o_carry & dut.o_negative), Cover(since_reset(m, dut.latency) & hold & (dut.o == 5))]


def rounds_products(m: Module, rtl, truncate: int) -> None:
    m.submodules.dut = dut = rtl.NormalizedRounder()
    drive(m, dut)
    m.d.comb += [
        Assume(dut.i_shift >= 14),
        Assume(dut.i_truncate == truncate),
        Assume((dut.i_product == 0) | (dut.i_product >= 1 << 46) | dut.i_truncate),
    ]
    product, negative, shift = delayed(m, dut.i_product, 4), delayed(m, dut.i_negative, 4), delayed(m, dut.i_shift, 5)
    zero_point, lo, hi = (delayed(m, value, 2) for value in (dut.i_zero_point, dut.i_lo, dut.i_hi))
    shift = named(m, (shift - 8)[:7], "shift")
    whole = product >> shift if truncate else rounded_off(as_float32(m, product, "fl"), shift)
    whole = named(m, Mux(whole > 511, 511, whole)[:9], "whole")
    value = named(m, Mux(negative, -whole, whole) + delayed(m, zero_point, 1), "value")
    same = (delayed(m, lo, 1) == lo) & (delayed(m, hi, 1) == hi)
    with m.If(since_reset(m, 5) & same):
        m.d.comb += [Assert(dut.o == clamped(value, lo, hi)), Cover((value == 7) & (hi == 9)), Cover(value < lo)]


@proof("rtl.normalized_rounder", bug=("ones & after & ~self", "ones & ~self"), depth=5, slow=True)
def normalized_rounder_rounds_twice(m, rtl):
    """The output is clamp(±RNE(fl(product / 2**shift)) + zero point), for all products of normalized numbers."""
    rounds_products(m, rtl, truncate=0)


@proof("rtl.normalized_rounder", bug=("shifted[0] & ~truncate", "shifted[0]"), depth=5)
def normalized_rounder_truncates(m, rtl):
    """With truncate it is clamp(±floor(product / 2**shift) + zero point), for all 48-bit products."""
    rounds_products(m, rtl, truncate=1)


@proof("rtl.rounder", bug=("beyond | past_edge | whole[0]", "beyond | whole[0]"), depth=4, slow=True)
def rounder_rounds_twice(m, rtl):
    """The residual add's rounder gives ±RNE(fl(magnitude / 2**shift)), for all 42-bit magnitudes, shifts of 0 to 31."""
    m.submodules.dut = dut = rtl.Rounder(width=42, shift_min=0, shift_max=31)
    drive(m, dut)
    magnitude, shift, negative = (delayed(m, value, 4) for value in (dut.i_magnitude, dut.i_excess, dut.i_negative))
    whole = named(m, rounded_off(as_float32(m, magnitude, "fl"), shift), "whole")
    want = Mux(negative, -whole, whole)
    got = named(m, abs(dut.o), "got")
    with m.If(since_reset(m, 4)):
        with m.If(whole < 512):
            m.d.comb += [Assert(dut.o == want), Cover(want == -300)]
        with m.Else():
            m.d.comb += [Assert((got >= 511) & ((dut.o < 0) == negative)), Cover(negative)]


class FreeMultiplier(wiring.Component):
    """Any product of the operands' width, in a multiplier's place."""

    LATENCY, offset_shift = PipelinedMultiplier.LATENCY, OFFSET_SHIFT

    i_a: In(MULTIPLIER_BITS)
    i_b: In(MULTIPLIER_BITS)
    i_c: In(OFFSET_BITS)
    o: Out(2 * MULTIPLIER_BITS)

    def __call__(self, **widths: int) -> "FreeMultiplier":
        assert widths == {"width_a": len(self.i_a), "width_b": len(self.i_b), "width_c": len(self.i_c)}
        return self

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(AnySeq(len(self.o)))
        return m


def requantizes(m: Module, rtl, truncate: int) -> None:
    multiplier = FreeMultiplier()
    rtl.PipelinedMultiplier = multiplier
    m.submodules.dut = dut = rtl.Requantizer()
    drive(m, dut)
    m.d.comb += [Assume(dut.i_truncate == truncate), Assume(dut.i_shift >= 14)]
    form = TRUNCATE_PARAM if truncate else PARAM
    offset = Cat(field_slice(form[1], dut.i_bias), dut.i_offset_high) if truncate else C(0, OFFSET_BITS)
    acc = (dut.i_acc + field_slice(form[0], dut.i_bias))[:32].as_signed()
    byte = (acc >> (dut.i_byte << 3))[:8] - 128
    total = named(m, Mux(dut.i_bytewise, byte, acc)[:32].as_signed(), "total")

    def constant(value: Value) -> Value:  # as the result sees it
        return delayed(m, value, dut.LATENCY)

    # fl(total) is operand * 2**excess
    sums = constant(total)
    fl = as_float32(m, named(m, abs(sums)[:32], "magnitude"), "fl")
    top = leading(m, fl, "fl_top")
    excess = named(m, Mux((top < 23) & truncate, 0, top - 23), "excess")
    operand = named(m, (fl << 23 >> (excess + 23).as_unsigned())[:24], "operand")
    shift = named(m, Mux(fl == 0, 0, constant(dut.i_shift) - excess)[:7], "shift")
    mantissa = constant(dut.i_mantissa)

    settled = since_reset(m, dut.LATENCY)
    back = FreeMultiplier.LATENCY + 4
    got = [
        delayed(m, multiplier.i_a, back),
        *(delayed(m, value, back + 1) for value in (multiplier.i_b, multiplier.i_c)),
    ]
    product = delayed(m, multiplier.o, 4)
    some = (operand != 0) & (mantissa != 0)
    if not truncate:
        m.d.comb += Assume(~settled | Mux(some, product >= 1 << 46, product == 0))
    whole = product >> shift if truncate else rounded_off(as_float32(m, product, "product_fl"), shift)
    whole = named(m, Mux(whole > 511, 511, whole)[:9], "whole")
    zero_point, lo, hi = delayed(m, dut.i_zero_point, 3), delayed(m, dut.i_lo, 2), delayed(m, dut.i_hi, 2)
    value = named(m, Mux(sums < 0, -whole, whole) + zero_point, "value")
    same = (delayed(m, lo, 1) == lo) & (delayed(m, hi, 1) == hi)
    offset = constant(offset)
    with m.If(settled):
        m.d.comb += [Assert(got[0] == operand), Assert(got[1] == mantissa), Assert(got[2] == offset)]
    with m.If(settled & same & ((fl != 0) | (product == 0))):
        m.d.comb += [Assert(dut.o == clamped(value, lo, hi)), Cover((dut.o == -100) & (lo == -128)), Cover(excess > 7)]


@proof(
    "rtl.requantize", bug=("normalizer.o_shift + ~normalizer.o_carry", "normalizer.o_shift + 127"), depth=14, slow=True
)
def requantizer_is_its_specification(m, rtl):
    """o = clamp(RNE(fl(fl(s) * m)) + zero point), s = acc + bias or a byte of it, for any product of its multiplier."""
    requantizes(m, rtl, truncate=0)


@proof(
    "rtl.requantize",
    bug=("Mux(self.i_truncate, field_slice(_BIAS, self.i_bias), self.i_bias)", "self.i_bias"),
    depth=14,
    slow=True,
)
def requantizer_truncates_as_specified(m, rtl):
    """With truncate it is clamp(±floor((|acc + bias| * M + offset * 2**12) / 2**shift) + zero point), likewise."""
    requantizes(m, rtl, truncate=1)
