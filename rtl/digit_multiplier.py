"""Multiplication on lookup tables and carry chains alone, two bits a row."""

from amaranth.hdl import C, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.pipeline import delayed

__all__ = ["DigitMultiplier"]


class DigitMultiplier(wiring.Component):
    """Multiply two unsigned numbers and add a third: ``o = i_a * i_b + i_c``.

    With d(k) the digits of ``i_b + 0b01...0101`` to base 4, `i_b` is the sum of ``(d(k) - 1) * 4**k``: a row is -a, 0,
    a or 2 * a, so that a table of 4 inputs chooses each of its bits. In place of -a stands the complement; the units
    that these rows lack are added to the third operand. What the digits carry is one more row, 0 or a.

    Registers: digits; rows; the levels of a tree of adders.

    Bare signals: it sits inside a pipeline that never stalls.

    Latency: `latency` from `i_a`, 5 for widths of 24. Throughput: one product a cycle. Backpressure: none.

    Parameters
    ----------
    width_a, width_b, width_c : int
        Widths [bits]; `width_b` is even.

    Members
    -------
    i_a : In(width_a)
        Taken a cycle after the others.
    i_b : In(width_b)
    i_c : In(width_c)
    o : Out(width_a + width_b)
        Result; it must fit.

    Raises
    ------
    ValueError
        If `width_b` isn't even.
    """

    def __init__(self, *, width_a: int, width_b: int, width_c: int):
        if width_b % 2:
            raise ValueError(f"Second operand's width must be even, not {width_b!r}")
        self._rows = width_b // 2 + 2
        self.latency = 1 + (self._rows - 1).bit_length()
        super().__init__({"i_a": In(width_a), "i_b": In(width_b), "i_c": In(width_c), "o": Out(width_a + width_b)})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        a, count = self.i_a, len(self.i_b) // 2
        shifted = delayed(m, self.i_b + C(((1 << len(self.i_b)) - 1) // 3), 1)
        digits = [shifted[2 * k : 2 * k + 2] for k in range(count)]
        wide, twice = Cat(a, C(0, 1)), Cat(C(0, 1), a)
        rows = []
        for k, digit in enumerate(digits):
            negative = digit == 0
            chosen = Signal(len(a) + 1, name=f"chosen_{k}")
            with m.Switch(digit):
                with m.Case(0):
                    m.d.comb += chosen.eq(~wide)
                with m.Case(2):
                    m.d.comb += chosen.eq(wide)
                with m.Case(3):
                    m.d.comb += chosen.eq(twice)
            rows.append((2 * k, delayed(m, Cat(chosen, negative).as_signed(), 1)))
        units = Cat(Cat(digit == 0, C(0, 1)) for digit in digits)
        rows.append((2 * count, delayed(m, a & shifted[-1].replicate(len(a)), 1)))
        rows.append((0, delayed(m, delayed(m, self.i_c, 1) + units, 1)))
        # neighbours first: the bits of the lower one that lie below the other pass by
        while len(rows) > 1:
            pairs = [rows[n : n + 2] for n in range(0, len(rows), 2)]
            rows = []
            for pair in pairs:
                (at, low), (above, high) = sorted((*pair, pair[-1])[:2], key=lambda row: row[0])
                total = low if len(pair) == 1 else Cat(low[: above - at], (low >> (above - at)) + high)
                signs = low.shape().signed or high.shape().signed
                rows.append((at, delayed(m, total.as_signed() if signs else total, 1)))
        ((_, total),) = rows
        m.d.comb += self.o.eq(total[: len(self.o)])
        return m
