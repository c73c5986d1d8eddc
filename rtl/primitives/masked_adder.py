"""An adder that masks one operand, on the carry chain alone."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.primitives.families import maker

__all__ = ["MaskedAdder"]


class MaskedAdder(wiring.Component):
    """Add a number to those bits of another that a mask keeps: ``o = (i_a & i_mask) + i_b``, modulo ``2**width``.

    Combinational: an accumulator that may begin at zero, a row of a multiplication.

    Parameters
    ----------
    width : int
        Width of operands and sum [bits], at least 1.

    Members
    -------
    i_a, i_mask, i_b : In(width)
    o : Out(width)

    Raises
    ------
    ValueError
        If `width` isn't a positive integer.
    """

    def __init__(self, width: int):
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"Adder's width must be a positive integer, not {width!r}")
        self.width = width
        super().__init__({"i_a": In(width), "i_mask": In(width), "i_b": In(width), "o": Out(width)})

    def elaborate(self, platform):
        """Return the module."""
        if make := maker(platform, "masked_adder"):
            return make(self)
        m = Module()
        m.d.comb += self.o.eq((self.i_a & self.i_mask) + self.i_b)
        return m
