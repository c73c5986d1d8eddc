"""A multiplier with the registers of a DSP block."""

from amaranth.hdl import Module, Shape
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.pipeline import delayed
from rtl.primitives.families import maker

__all__ = ["Multiplier"]


class Multiplier(wiring.Component):
    """Multiply two numbers: ``o = i_a * i_b``.

    Registers: operands, product, result.

    Latency: 3 cycles (`LATENCY`). Throughput: one product a cycle. Backpressure: none.

    Parameters
    ----------
    shape_a, shape_b : Shape
        Operands' shapes, of 1 to 18 bits, signed or not.

    Members
    -------
    i_a : In(shape_a)
    i_b : In(shape_b)
        Operands.
    o : Out(shape of their product)
        Product of the operands `LATENCY` cycles ago.

    Raises
    ------
    ValueError
        If an operand is wider than 18 bits or has none.
    """

    LATENCY = 3
    WIDEST = 18

    def __init__(self, shape_a, shape_b):
        shape_a, shape_b = Shape.cast(shape_a), Shape.cast(shape_b)
        for shape in (shape_a, shape_b):
            if not 1 <= shape.width <= self.WIDEST:
                raise ValueError(f"Operand's width must be 1 to {self.WIDEST} bits, not {shape.width!r}")
        product = Shape(shape_a.width + shape_b.width, shape_a.signed or shape_b.signed)
        super().__init__({"i_a": In(shape_a), "i_b": In(shape_b), "o": Out(product)})

    def elaborate(self, platform):
        """Return the module."""
        if make := maker(platform, "multiplier"):
            return make(self)
        m = Module()
        m.d.comb += self.o.eq(delayed(m, delayed(m, self.i_a, 1) * delayed(m, self.i_b, 1), 2))
        return m
