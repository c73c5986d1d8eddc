"""Properties of multipliers: wide ones, those without DSP blocks, and two products of one."""

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Const, Cover, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl import paired
from rtl.pipeline import delayed
from rtl.primitives import Multiplier
from tests.proofs.harness import drive, proof, since_reset
from tests.proofs.rounding import as_float32, clamped, named, rounded_off


def sum_of_rows(a: Value, b: Value, c: Value) -> Value:
    """Return ``a * b + c`` with unsigned `b`, as schools teach it."""
    total = c
    for bit in range(len(b)):
        total = total + (Mux(b[bit], a, 0) << bit)
    return total


class Free(wiring.Component):
    """Any product, in a multiplier's place."""

    def __init__(self, *, a, b):
        super().__init__({"i_a": In(a), "i_b": In(b), "o": Out(Shape(a.width + b.width, a.signed or b.signed))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(AnySeq(self.o.shape()))
        return m


class Stub:
    """Stands for the class `Multiplier`: gives out `blocks` one after the other."""

    WIDEST, LATENCY = Multiplier.WIDEST, Multiplier.LATENCY

    def __init__(self, blocks):
        self._blocks = iter(blocks)

    def __call__(self, a, b):
        block = next(self._blocks)
        assert (Shape.cast(a), Shape.cast(b)) == (block.i_a.shape(), block.i_b.shape())
        return block


@proof("rtl.multiplier", bug=("m.d.comb += [addend.eq(~a if subtract else a)", "m.d.comb += [addend.eq(a)"), depth=3)
def row_multiplier_multiplies_bytes(m, rtl):
    """Bytes by signed bytes, one adder a bit, are their product, for all operands."""
    m.submodules.dut = dut = rtl.RowMultiplier(signed(8), signed(8))
    drive(m, dut)
    want = delayed(m, dut.i_a * dut.i_b, dut.LATENCY)
    with m.If(since_reset(m, dut.LATENCY)):
        m.d.comb += [Assert(dut.o == want), Cover(want == 1 << 14)]


@proof("rtl.multiplier", bug=("if bit else self.i_c", "if bit else 0"), depth=3)
def row_multiplier_adds(m, rtl):
    """24 bits by 6 and 24 more are o = a * b + c, as in the requantizer, for all operands."""
    m.submodules.dut = dut = rtl.RowMultiplier(unsigned(24), unsigned(6), adds=True)
    drive(m, dut)
    exact = sum_of_rows(dut.i_a, dut.i_b, dut.i_c)
    want = delayed(m, exact, dut.LATENCY)
    with m.If(since_reset(m, dut.LATENCY)):
        m.d.comb += [Assert(dut.o == want), Cover(want == (1 << 30) - 64)]


@proof("rtl.multiplier", bug=("(inner.o << low_a)", "(inner.o << low_b - 1)"), depth=6, slow=True)
def pipelined_multiplier_joins_its_products(m, rtl):
    """o = a * b + c * 2**12 of 24-bit operands, given the products of their parts, for all operands."""
    blocks = [Free(a=unsigned(18), b=unsigned(bits)) for bits in (18, 6)]
    rtl.Multiplier = Stub(blocks)
    m.submodules.dut = dut = rtl.PipelinedMultiplier(width_a=24, width_b=24, width_c=12)
    drive(m, dut)
    a, b, c = delayed(m, dut.i_a, 5), delayed(m, dut.i_b, 6), delayed(m, dut.i_c, 6)
    outer, inner = (delayed(m, block.o, 2) for block in blocks)
    operands = [(delayed(m, block.i_a, 5), delayed(m, block.i_b, 5)) for block in blocks]
    want = Signal(48)
    m.d.comb += want.eq(sum_of_rows(b, a[:6], c << 12) + (inner << 6) + (outer << 12))
    with m.If(since_reset(m, 6)):
        m.d.comb += [Assert(upper == a[6:]) for upper, _ in operands]
        m.d.comb += [Assert(operands[0][1] == b[6:]), Assert(operands[1][1] == b[:6])]
        m.d.comb += [Assert(dut.o == want), Cover(want == 20501)]


@proof("rtl.digit_multiplier", bug=("else digit == 0", "else digit == 1"), depth=6, slow=True)
def digit_multiplier_multiplies(m, rtl):
    """o = a * b + c of 8-bit operands by digits to base 4, for all whose result fits."""
    m.submodules.dut = dut = rtl.DigitMultiplier(width_a=8, width_b=8, width_c=12)
    drive(m, dut)
    a, b, c = (delayed(m, value, dut.latency + late) for value, late in ((dut.i_a, 0), (dut.i_b, 1), (dut.i_c, 1)))
    exact = a * b + c
    with m.If(since_reset(m, dut.latency + 1) & (exact < 1 << 16)):
        m.d.comb += [Assert(dut.o == exact), Cover(exact == 65535)]


def accumulates(m: Module, rtl, form: str) -> None:
    m.submodules.dut = pe = rtl.PE(int4=True, act_int4=True)
    rtl.multiply(m, [pe], int4=True, act_int4=True)
    byte, weights = AnySeq(8), AnySeq(8)
    a, w = Signal(8), Signal(8)
    m.d.comb += [a.eq(byte), w.eq(weights)]
    pairs, dots = form != "bytes", form == "dots"
    m.submodules.unpack = unpack = paired.WeightUnpack(cols=1)
    m.d.comb += [unpack.i_word[0].eq(w), unpack.i_pairs.eq(pairs), pe.i_w.eq(unpack.o[0])]
    m.d.comb += [pe.i_a.eq(paired.operand(a, Const(dots))), pe.i_pairs.eq(pairs)]
    m.d.comb += [pe.i_enable.eq(AnySeq(1)), pe.i_keep.eq(AnySeq(1)), pe.i_capture.eq(1)]
    act, later = delayed(m, a, 3), delayed(m, w, 3 + unpack.LATENCY)
    low, high = later[:4].as_signed(), later[4:].as_signed()
    if form == "bytes":
        terms = (act.as_signed() * later.as_signed(),)
    elif form == "pairs":
        terms = (act.as_signed() * low, act.as_signed() * high)
    else:
        terms = (act[:4].as_signed() * high + act[4:].as_signed() * low,)
    bits = 32 if form == "bytes" else 24
    shadow = pe.o_shadow.as_value()
    got = {"bytes": [shadow[:32]], "pairs": [shadow[:24], shadow[24:]], "dots": [shadow[24:]]}[form]
    for place, (term, now) in enumerate(zip(terms, got, strict=True)):
        acc = Signal(signed(bits), name=f"acc_{place}")
        with m.If(pe.i_enable):
            m.d.sync += acc.eq(Mux(pe.i_keep, acc, 0) + term)
        shown, told = Signal(bits, name=f"shown_{place}"), Signal(name=f"told_{place}")
        begun = Signal(name=f"begun_{place}")
        settled = since_reset(m, 3 + unpack.LATENCY)
        with m.If(pe.i_enable & ~pe.i_keep & settled):
            m.d.sync += begun.eq(1)
        m.d.sync += [shown.eq(acc), told.eq(begun)]
        with m.If(told):
            m.d.comb += [Assert(now == shown), Cover(shown[-1])]


@proof("rtl.mesh", bug=("m.d.comb += [adder.i_a.eq(kept)", "m.d.comb += [adder.i_a.eq(acc)"), depth=7, slow=True)
def processing_element_adds_bytes(m, rtl):
    """A PE's sum is that of the products of bytes since the last first one, modulo 2**32, over any number of steps."""
    accumulates(m, rtl, "bytes")


@proof("rtl.mesh", bug=("self.i_pairs, self.i_keep", "~self.i_pairs, self.i_keep"), depth=7, slow=True)
def processing_element_adds_pairs(m, rtl):
    """With two weights in a byte it keeps two such sums, modulo 2**24, neither disturbing the other."""
    accumulates(m, rtl, "pairs")


@proof("rtl.mesh", bug=("self.i_pairs, self.i_keep", "~self.i_pairs, self.i_keep"), depth=7, slow=True)
def processing_element_adds_products_of_halves(m, rtl):
    """With two activations in a byte as well, the upper sum is that of both halves' products, modulo 2**24."""
    accumulates(m, rtl, "dots")


@proof(
    "rtl.residual_add",
    bug=("(upper << _LOW_BITS) + self.i_offset, 1)", "(upper << _LOW_BITS) + self.i_offset[:39].as_signed(), 1)"),
    depth=12,
    slow=True,
)
def residual_add_is_its_specification(m, rtl):
    """o = clamp(RNE(fl(total / 2**shift)), lo, hi), total being the four products and the offset, for all of them."""
    high = [Free(a=signed(bits), b=signed(18)) for bits in (8, 17)]
    low = [Free(a=signed(bits), b=unsigned(8)) for bits in (8, 17)]
    rtl.Multiplier, rtl.RowMultiplier = Stub([*high, low[1]]), Stub(low[:1])
    m.submodules.dut = dut = rtl.ResidualAdd()
    drive(m, dut)
    # a descriptor's constants
    for port in (dut.i_factor_a, dut.i_factor_b, dut.i_offset, dut.i_shift, dut.i_lo, dut.i_hi):
        m.d.comb += Assume(port == AnyConst(port.shape()))
    for blocks, bits in ((high, slice(8, None)), (low, slice(0, 8))):
        for block, operand, factor in zip(blocks, (dut.i_a, dut.i_b), (dut.i_factor_a, dut.i_factor_b), strict=True):
            m.d.comb += [Assert(block.i_a == operand), Assert(block.i_b.as_unsigned() == factor.as_unsigned()[bits])]
    products = [delayed(m, block.o, 9) for block in (*high, *low)]
    total = Signal(signed(44))
    m.d.comb += total.eq(((products[0] + products[1]) << 8) + products[2] + products[3] + dut.i_offset)
    magnitude = named(m, abs(total)[:43], "magnitude")
    whole = named(m, rounded_off(as_float32(m, magnitude, "fl"), dut.i_shift), "whole")
    value = Mux(total < 0, -whole, whole)
    with m.If(since_reset(m, 12) & (magnitude < 1 << 42)):
        m.d.comb += [Assert(dut.o == clamped(value, dut.i_lo, dut.i_hi)), Cover(value == -100), Cover(value > dut.i_hi)]
