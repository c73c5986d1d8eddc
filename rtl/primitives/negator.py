"""Two's complement where it is asked for, on the carry chain alone."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.primitives.families import maker

__all__ = ["Negator"]


class Negator(wiring.Component):
    """Negate a number or not: ``o = -i if i_negate else i``, modulo ``2**width``.

    Combinational.

    Parameters
    ----------
    width : int
        Width of number and result [bits], at least 1.

    Members
    -------
    i : In(width)
    i_negate : In(1)
    o : Out(width)

    Raises
    ------
    ValueError
        If `width` isn't a positive integer.
    """

    def __init__(self, width: int):
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"Negator's width must be a positive integer, not {width!r}")
        self.width = width
        super().__init__({"i": In(width), "i_negate": In(1), "o": Out(width)})

    def elaborate(self, platform):
        """Return the module."""
        if make := maker(platform, "negator"):
            return make(self)
        m = Module()
        m.d.comb += self.o.eq((self.i ^ self.i_negate.replicate(self.width)) + self.i_negate)
        return m
