"""Two products on one multiplier: every operand, in integers and in Amaranth's simulator, and what breaks them."""

import numpy as np
import pytest
from amaranth.hdl import Fragment, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hwq import pipeline
from rtl import paired
from rtl.mesh import PE, multiply

A, LOW, HIGH = np.meshgrid(np.arange(-128, 128), np.arange(-8, 8), np.arange(-8, 8), indexing="ij")


def signed(values, bits):
    return (values + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def wrong_products(low_bits, borrow):
    """Return how many of all triples of operands one multiplication of packed ones gets wrong."""
    product = A * ((HIGH << low_bits) + LOW)
    low = product & ((1 << low_bits) - 1)
    negative = low >> (low_bits - 1)
    low -= negative << low_bits
    high = (product >> low_bits) + (negative if borrow else 0)
    return int(np.count_nonzero((low != A * LOW) | (high != A * HIGH)))


def test_one_multiplication_is_two_products():
    assert wrong_products(paired.LOW_BITS, borrow=True) == 0
    assert A.size == 256 * 16 * 16


def test_it_takes_the_borrow_and_every_guard_bit():
    assert wrong_products(paired.LOW_BITS, borrow=False) == np.count_nonzero(A * LOW < 0)
    assert wrong_products(paired.LOW_BITS - 1, borrow=True) == 16, "-128 * -8, above each upper weight"


A0, A1, W0, W1 = (values.reshape(-1) for values in np.meshgrid(*[np.arange(-8, 8)] * 4, indexing="ij"))
DOTS = A0 * W0 + A1 * W1


def wrong_dots(low_bits, borrow):
    """Return how many of all quadruples of operands one multiplication of packed pairs gets wrong."""
    product = ((A1 << low_bits) + A0) * ((W0 << low_bits) + W1)
    upper = (product >> low_bits) + (product >> (low_bits - 1) & borrow)
    return int(np.count_nonzero(signed(upper, paired.PRODUCT_BITS - low_bits) != DOTS))


def test_one_multiplication_is_a_sum_of_two_products():
    assert wrong_dots(paired.LOW_BITS, borrow=1) == 0
    assert DOTS.size == 65536


def test_the_sum_takes_the_borrow_and_room_below_what_is_cut_off():
    assert wrong_dots(paired.LOW_BITS, borrow=0) == np.count_nonzero(A0 * W1 < 0)
    assert wrong_dots(paired.LOW_BITS - 1, borrow=1) == np.count_nonzero(A1 * W0 % 4)


class Column(wiring.Component):
    """A PE behind its operands: one product a cycle."""

    i_a: In(8)
    i_byte: In(8)
    i_dots: In(1)
    i_pairs: In(1)
    i_steps: In(1)
    i_odd: In(1)
    i_first: In(1)
    o_low: Out(24)
    o_high: Out(24)

    def __init__(self, act_int4=True):
        self._act_int4 = act_int4
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.unpack = unpack = paired.WeightUnpack(cols=1)
        m.submodules.pe = pe = PE(int4=True, act_int4=self._act_int4)
        multiply(m, [pe], int4=True, act_int4=self._act_int4)
        m.d.comb += [
            unpack.i_word[0].eq(self.i_byte),
            unpack.i_pairs.eq(self.i_pairs),
            unpack.i_steps.eq(self.i_steps),
            unpack.i_odd.eq(self.i_odd),
            pe.i_a.eq(paired.operand(self.i_a, self.i_dots) if self._act_int4 else self.i_a),
            pe.i_w.eq(unpack.o[0]),
            pe.i_enable.eq(1),
            pe.i_keep.eq(~self.i_first),
            pe.i_pairs.eq(self.i_pairs),
            pe.i_capture.eq(1),
            self.o_low.eq(pe.o_shadow.low),
            self.o_high.eq(pe.o_shadow.high),
        ]
        return m


UNPACK = paired.WeightUnpack.LATENCY
LATENCY = UNPACK + pipeline.EDGE_TO_SHADOW
"""From a byte of weights to the shadow register."""


def simulate(a, byte, *, act_int4=True, first=1, **form):
    """Return the 48 bits of the shadow register for every step, as (low, high), both unsigned.

    The activation meets its weight `UNPACK` cycles after the weight's byte came. Control is constant.
    """
    dut, out = Column(act_int4), []

    async def bench(ctx):
        for name, value in {"first": first, **form}.items():
            ctx.set(getattr(dut, f"i_{name}"), value)
        for n in range(len(a) + LATENCY):
            if n < len(a):
                ctx.set(dut.i_byte, int(byte[n]))
            if UNPACK <= n < UNPACK + len(a):
                ctx.set(dut.i_a, int(a[n - UNPACK]))
            if n >= LATENCY:
                out.append((ctx.get(dut.o_low), ctx.get(dut.o_high)))
            await ctx.tick()

    simulator = Simulator(Fragment.get(dut, None))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(out).T


BYTES = (HIGH & 15) << 4 | LOW & 15


def wrong_pairs(chosen=slice(None), act_int4=True):
    """Return how many of the chosen triples of operands the gateware gets wrong."""
    a, low, high, byte = (values.reshape(-1)[chosen] for values in (A, LOW, HIGH, BYTES))
    got = signed(simulate(a, byte, act_int4=act_int4, pairs=1), 24)
    return int(np.count_nonzero((got[0] != a * low) | (got[1] != a * high)))


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize("act_int4", [False, True])
def test_gateware_multiplies_every_pair_exactly(act_int4):
    assert wrong_pairs(act_int4=act_int4) == 0


@pytest.mark.rtl
def test_gateware_without_the_borrow_is_wrong(monkeypatch):
    monkeypatch.setattr(paired, "crossing", lambda pairs, borrow: (pairs & 0, ~pairs))
    chosen = slice(0, None, 7)
    assert wrong_pairs(chosen) == np.count_nonzero((A * LOW < 0).reshape(-1)[chosen])


@pytest.mark.rtl
def test_gateware_with_a_guard_bit_less_is_wrong(monkeypatch):
    monkeypatch.setattr(paired, "LOW_BITS", paired.LOW_BITS - 1)
    assert wrong_pairs(slice(0, 2048)) == 16


def dots(chosen=slice(None), first=1):
    """Return the upper sums that the gateware makes of the chosen quadruples, and those that are right."""
    a, w = (A1 << 4 | A0 & 15)[chosen], (W0 << 4 | W1 & 15)[chosen]
    return signed(simulate(a & 255, w & 255, pairs=1, dots=1, first=first)[1], 24), DOTS[chosen]


@pytest.mark.rtl
@pytest.mark.slow
def test_gateware_adds_every_two_products_exactly():
    got, right = dots()
    assert np.array_equal(got, right)


@pytest.mark.rtl
@pytest.mark.slow
def test_gateware_accumulates_every_two_products_exactly():
    got, right = dots(first=0)
    assert np.array_equal(got, np.cumsum(right))


@pytest.mark.rtl
def test_gateware_without_the_borrow_adds_wrongly(monkeypatch):
    monkeypatch.setattr(paired, "crossing", lambda pairs, borrow: (pairs & 0, ~pairs))
    chosen = slice(0, None, 13)
    got, right = dots(chosen)
    assert np.array_equal(got, right - (A0 * W1 < 0)[chosen])


@pytest.mark.rtl
def test_gateware_with_operands_a_bit_nearer_adds_wrongly(monkeypatch):
    monkeypatch.setattr(paired, "LOW_BITS", paired.LOW_BITS - 1)
    chosen = slice(0, None, 13)
    got, right = dots(chosen)
    assert np.array_equal(got != right, (A1 * W0 % 4 != 0)[chosen])


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.parametrize("act_int4", [False, True])
def test_gateware_multiplies_every_byte_exactly(act_int4):
    a, w = (values.reshape(-1) for values in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    low, high = simulate(a, w & 255, act_int4=act_int4, pairs=0)
    assert np.array_equal(signed(high << 24 | low, 32), a * w)


@pytest.mark.rtl
@pytest.mark.parametrize("odd", [0, 1])
def test_gateware_takes_one_step_s_half(odd):
    chosen = slice(0, None, 11)
    a, low, high, byte = (values.reshape(-1)[chosen] for values in (A, LOW, HIGH, BYTES))
    sums = simulate(a, byte, pairs=0, steps=1, odd=odd)
    assert np.array_equal(signed(sums[1] << 24 | sums[0], 32), a * (high if odd else low))


@pytest.mark.rtl
def test_sums_wrap_apart_from_one_another():
    rng = np.random.default_rng(5)
    a = np.full(9000, -128)
    byte = np.where(rng.random(a.size) < 0.97, 0x88, rng.integers(0, 256, a.size))
    sums = np.array([np.cumsum(a * signed(half, 4)) for half in (byte & 15, byte >> 4)])
    assert (sums.max(axis=1) > 1 << 23).all()
    assert np.array_equal(signed(simulate(a, byte, pairs=1, first=0), 24), signed(sums, 24))
