"""Two multipliers of bytes, which some DSP blocks hold both of."""

from amaranth.hdl import Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.primitives.families import maker
from rtl.primitives.multiplier import Multiplier

__all__ = ["MultiplierPair"]


class MultiplierPair(wiring.Component):
    """Multiply two signed bytes by two others: ``o[i] = i_a[i] * i_b[i]``.

    Latency: 3 cycles, `Multiplier.LATENCY`. Throughput: two products a cycle. Backpressure: none.

    Members
    -------
    i_a, i_b : In(two of signed(8))
        Operands.
    o : Out(two of signed(16))
        Products of the operands `LATENCY` cycles ago.
    """

    LATENCY = Multiplier.LATENCY

    def __init__(self):
        operands = In(data.ArrayLayout(signed(8), 2))
        super().__init__({"i_a": operands, "i_b": operands, "o": Out(data.ArrayLayout(signed(16), 2))})

    def elaborate(self, platform):
        """Return the module."""
        if make := maker(platform, "multiplier_pair"):
            return make(self)
        m = Module()
        for i in range(2):
            m.submodules[f"multiplier_{i}"] = multiplier = Multiplier(signed(8), signed(8))
            m.d.comb += [multiplier.i_a.eq(self.i_a[i]), multiplier.i_b.eq(self.i_b[i]), self.o[i].eq(multiplier.o)]
        return m
