"""The product of two operands, on the way to the residual add."""

from amaranth.hdl import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.multiplier import RowMultiplier
from rtl.pipeline import delayed
from rtl.residual_add import PRODUCT_BITS

__all__ = ["Product"]


class Product(wiring.Component):
    """Multiply two bytes less their zero points, or pass the second on; for two lanes in turn.

    ``o = (i_a - i_a_zero) * (i_b - i_b_zero)`` with `i_product`, else ``o = i_b``: one factor is then 1, and nothing
    follows the multiplier. Stages: the differences, the multiplication in three.

    Bare signals: it sits inside the post-processing pipeline, which never stalls.

    Latency: 4 cycles (`LATENCY`). Throughput: one result a cycle. Backpressure: none.

    Members
    -------
    i_product : In(1)
    i_a_zero, i_b_zero : In(signed(8))
        Constants of a descriptor, not delayed with the operands.
    i_a, i_b : In(signed(8))
    o : Out(signed(17))
        Result of the operands `LATENCY` cycles ago, -65,025 to 65,025.
    """

    LATENCY = 1 + RowMultiplier.LATENCY

    i_product: In(1)
    i_a_zero: In(signed(8))
    i_b_zero: In(signed(8))
    i_a: In(signed(8))
    i_b: In(signed(8))
    o: Out(signed(PRODUCT_BITS))

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        m.submodules.multiplier = multiplier = RowMultiplier(signed(9), signed(9))
        m.d.comb += [
            multiplier.i_a.eq(delayed(m, Mux(self.i_product, self.i_a - self.i_a_zero, 1), 1)),
            multiplier.i_b.eq(delayed(m, self.i_b - Mux(self.i_product, self.i_b_zero, 0), 1)),
            self.o.eq(multiplier.o),
        ]
        return m
