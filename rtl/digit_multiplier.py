"""Multiplication on lookup tables and carry chains alone, two bits a row."""

from amaranth.hdl import C, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.pipeline import delayed

__all__ = ["DigitMultiplier"]


class DigitMultiplier(wiring.Component):
    """Multiply two unsigned numbers and add a third: ``o = i_a * i_b + i_c``.

    With d(k) the digits of ``i_b + 0b01...0101`` to base 4, `i_b` is the sum of ``(d(k) - 1) * 4**k``: a row is -a, 0,
    a or 2 * a, so that a table of 4 inputs chooses each of its bits. In place of -a stands the complement; the unit
    that it lacks stands below the next row, which begins two bits further up. What the digits carry is one more row, 0
    or a; of an odd number of bits they carry nothing, and the last one is never 0.

    Registers: digits; rows; each, or each second one, of the levels of a tree of adders.

    Bare signals: it sits inside a pipeline that never stalls.

    Latency: `latency` from `i_a`, 5 for widths of 24, 3 with two levels a cycle. Throughput: one product a cycle.
    Backpressure: none.

    Parameters
    ----------
    width_a, width_b, width_c : int
        Widths [bits]; `width_c` may be 0.
    levels : int
        Adders one after another in a cycle.

    Members
    -------
    i_a : In(width_a)
        Taken a cycle after the others.
    i_b : In(width_b)
    i_c : In(width_c)
    o : Out(width_a + width_b)
        Result; it must fit.
    """

    def __init__(self, *, width_a: int, width_b: int, width_c: int = 0, levels: int = 1):
        self._rows = width_b // 2 + 1 + (width_c > 0)
        self._levels = levels
        self.latency = 1 - (-(self._rows - 1).bit_length() // levels)
        super().__init__({"i_a": In(width_a), "i_b": In(width_b), "i_c": In(width_c), "o": Out(width_a + width_b)})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        a, width = self.i_a, len(self.i_b)
        count, even = (width + 1) // 2, width % 2 == 0
        shifted = delayed(m, (self.i_b + C(((1 << 2 * count) - 1) // 3))[: width + 1], 1)
        digits = [shifted[2 * k : 2 * k + 2] for k in range(count)]
        wide, twice = Cat(a, C(0, 1)), Cat(C(0, 1), a)
        rows, units = [], C(0, 0)  # each row, at its place, and the one before's unit
        for k, digit in enumerate(digits):
            negative = C(0, 1) if k == count - 1 and not even else digit == 0
            # as gates: of a choice synthesis makes registers with a reset of each row's own
            chosen = Signal(len(wide), name=f"chosen_{k}")
            kept, doubled, turned = (bit.replicate(len(wide)) for bit in (~digit[0], digit.all(), negative))
            m.d.comb += chosen.eq(((wide & kept) | (twice & doubled)) ^ turned)
            rows.append((2 * k - len(units), delayed(m, Cat(units, chosen, negative).as_signed(), 1)))
            units = Cat(negative, C(0, 1))
        if even:
            rows.append((2 * count - 2, delayed(m, Cat(units, a & shifted[-1].replicate(len(a))), 1)))
        if len(self.i_c):
            rows.insert(0, (0, delayed(m, self.i_c, 2)))
        # neighbours first: the bits of the lower one that lie below the other pass by
        level = 0
        while len(rows) > 1:
            level += 1
            waits = level % self._levels == 0 or len(rows) == 2
            pairs = [rows[n : n + 2] for n in range(0, len(rows), 2)]
            rows = []
            for pair in pairs:
                (at, low), (above, high) = sorted((*pair, pair[-1])[:2], key=lambda row: row[0])
                total = low if len(pair) == 1 else Cat(low[: above - at], (low >> (above - at)) + high)
                signs = low.shape().signed or high.shape().signed
                rows.append((at, delayed(m, total.as_signed() if signs else total, int(waits))))
        ((_, total),) = rows
        m.d.comb += self.o.eq(total[: len(self.o)])
        return m
