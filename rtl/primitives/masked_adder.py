"""An adder that masks one operand, on the carry chain alone."""

from amaranth.hdl import Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.primitives.families import maker

__all__ = ["MaskedAdder"]


class MaskedAdder(wiring.Component):
    """Add a number to those bits of another that a mask keeps: ``o = (i_a & i_mask) + i_b``, modulo ``2**width``.

    With `whole` the mask keeps all bits or none: ``o = i_b + (i_a if i_mask else 0)``.

    Combinational: an accumulator that may begin at zero, a row of a multiplication.

    Parameters
    ----------
    width : int
        Width of operands and sum [bits], at least 1.
    whole : bool
        Whether the mask is one bit.

    Members
    -------
    i_a, i_b : In(width)
    i_mask : In(width), with `whole` In(1)
    o : Out(width)

    Raises
    ------
    ValueError
        If `width` isn't a positive integer.
    """

    def __init__(self, width: int, *, whole: bool = False):
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"Adder's width must be a positive integer, not {width!r}")
        self.width, self.whole = width, whole
        super().__init__({"i_a": In(width), "i_mask": In(1 if whole else width), "i_b": In(width), "o": Out(width)})

    @property
    def mask(self) -> Value:
        """Bits of `i_a` that are kept, one by one."""
        return self.i_mask.replicate(self.width) if self.whole else self.i_mask

    def elaborate(self, platform):
        """Return the module."""
        if make := maker(platform, "masked_adder"):
            return make(self)
        m = Module()
        if self.whole:
            # an iCE40's carry chain is ahead of its lookup tables, which have one input left: one cell a bit
            m.d.comb += self.o.eq(Mux(self.i_mask, (self.i_a + self.i_b)[: self.width], self.i_b))
        else:
            m.d.comb += self.o.eq((self.i_a & self.i_mask) + self.i_b)
        return m
