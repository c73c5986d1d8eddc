"""Two multiply-accumulators of bytes, which some DSP blocks hold both of."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.primitives.families import maker

__all__ = ["AccumulatorPair"]

_BITS = 16


class AccumulatorPair(wiring.Component):
    """Add up products of signed bytes, modulo 2**16: ``o[i] += i_a[i] * i_b[i]``.

    Latency: 3 cycles (`LATENCY`) from operands to the sum that has their product, with `i_enable` 2 cycles after them.
    Throughput: two products a cycle. Backpressure: none.

    Members
    -------
    i_a, i_b : In(two of signed(8))
        Operands.
    i_enable : In(1)
        Add the products of the operands of 2 cycles ago.
    i_clear : In(1)
        Start from zero instead.
    o : Out(two of 16 bits)
        Sums.
    """

    LATENCY = 3

    def __init__(self):
        operands = In(data.ArrayLayout(signed(8), 2))
        sums = Out(data.ArrayLayout(_BITS, 2))
        super().__init__({"i_a": operands, "i_b": operands, "i_enable": In(1), "i_clear": In(1), "o": sums})

    def elaborate(self, platform):
        """Return the module."""
        if make := maker(platform, "accumulator_pair"):
            return make(self)
        m = Module()
        for i in range(2):
            a, b = Signal(signed(8), name=f"a_{i}"), Signal(signed(8), name=f"b_{i}")
            product = Signal(signed(_BITS), name=f"product_{i}")
            m.d.sync += [a.eq(self.i_a[i]), b.eq(self.i_b[i]), product.eq(a * b)]
            with m.If(self.i_clear):
                m.d.sync += self.o[i].eq(0)
            with m.Elif(self.i_enable):
                m.d.sync += self.o[i].eq(self.o[i] + product)
        return m
