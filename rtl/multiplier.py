"""Multiplications wider than a DSP block, and such as need none."""

from amaranth.hdl import C, Cat, Module, Shape, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.pipeline import delayed
from rtl.primitives import MaskedAdder, Multiplier

__all__ = ["PipelinedMultiplier", "RowMultiplier"]


class RowMultiplier(wiring.Component):
    """Multiply by a few bits without a DSP block: ``o = i_a * i_b``, one adder for each bit of `i_b`.

    Registers: operands, the sum of the lower half of the rows, the sum of all.

    Latency: that of `rtl.primitives.Multiplier`, beside which it stands. Throughput: one product a cycle.
    Backpressure: none.

    Parameters
    ----------
    shape_a, shape_b : Shape
        Operands' shapes, signed or not; `shape_b` has at least 2 bits.

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
        If `shape_b` has less than 2 bits, or is signed and `shape_a` isn't.
    """

    LATENCY = Multiplier.LATENCY

    def __init__(self, shape_a, shape_b):
        shape_a, shape_b = Shape.cast(shape_a), Shape.cast(shape_b)
        if shape_b.width < 2:
            raise ValueError(f"Second operand must have at least 2 bits, not {shape_b.width!r}")
        if shape_b.signed and not shape_a.signed:
            raise ValueError("First operand must be signed where the second is")
        product = Shape(shape_a.width + shape_b.width, shape_a.signed)
        super().__init__({"i_a": In(shape_a), "i_b": In(shape_b), "o": Out(product)})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        bits, negative = self.i_b.shape().width, self.i_b.shape().signed
        # of a row's sum the lowest bit is the product's, the others go on
        row = Shape(self.i_a.shape().width + 1, self.o.shape().signed)
        a, b, product, upper = delayed(m, self.i_a, 1), delayed(m, self.i_b, 1), C(0, 0), Signal(row)
        first = (a & b[0].replicate(len(a)))[: len(a)]
        m.d.comb += upper.eq(first.as_signed() if self.i_a.shape().signed else first)
        for bit in range(1, bits):
            if bit == (bits + 1) // 2:
                a, b, product, upper = (delayed(m, value, 1) for value in (a, b, product, upper))
            addend, rest = Signal(row, name=f"addend_{bit}"), Signal(row, name=f"rest_{bit}")
            subtract = negative and bit == bits - 1
            m.d.comb += [addend.eq(~a if subtract else a), rest.eq(upper >> 1)]
            if subtract:
                # a carry from one bit below makes the complement the negative
                addend, rest = Cat(C(1), addend), Cat(C(1), rest)
            m.submodules[f"row_{bit}"] = adder = MaskedAdder(len(addend), whole=True)
            m.d.comb += [adder.i_a.eq(addend), adder.i_mask.eq(b[bit]), adder.i_b.eq(rest)]
            product = Cat(product, upper[0])
            total = adder.o[len(addend) - row.width :]
            upper = total.as_signed() if row.signed else total
        m.d.comb += self.o.eq(delayed(m, Cat(product, upper), 1))
        return m


class PipelinedMultiplier(wiring.Component):
    """Multiply two unsigned numbers and add a third: ``o = i_a * i_b + i_c * 2**offset_shift``.

    The operands' upper 18 bits meet in one DSP block, what the others contribute is added up by rows:

    ====== =========================================================================
    1-3    ``a_high * b_high``, ``a * b_low``, ``a_low * b_high``
    4      sum of the latter two; third operand added to the first
    5      result
    ====== =========================================================================

    The third operand begins at bit `offset_shift`, where the block's product does.

    Bare signals: it sits inside a pipeline that never stalls.

    Latency: 5 cycles (`LATENCY`). Throughput: one product a cycle. Backpressure: none.

    Parameters
    ----------
    width_a, width_b : int
        Operand widths [bits], 19 to 36.
    width_c : int
        Width of the third operand [bits], 0 without one.

    Members
    -------
    i_a : In(width_a)
    i_b : In(width_b)
    i_c : In(width_c)
        Operands, unsigned, taken in one cycle. The result must fit its width.
    o : Out(width_a + width_b)
        Result.

    Raises
    ------
    ValueError
        If `width_a` or `width_b` isn't in 19 to 36, or `width_c` is below 0.
    """

    LATENCY = Multiplier.LATENCY + 2

    def __init__(self, *, width_a: int, width_b: int, width_c: int = 0):
        for name, width in (("width_a", width_a), ("width_b", width_b)):
            if not isinstance(width, int) or not Multiplier.WIDEST < width <= 2 * Multiplier.WIDEST:
                limits = f"{Multiplier.WIDEST + 1} to {2 * Multiplier.WIDEST}"
                raise ValueError(f"Multiplier's {name} must be an integer in {limits}, not {width!r}")
        if not isinstance(width_c, int) or width_c < 0:
            raise ValueError(f"Multiplier's width_c must be an integer of at least 0, not {width_c!r}")
        self._low_a, self._low_b = width_a - Multiplier.WIDEST, width_b - Multiplier.WIDEST
        self.offset_shift = self._low_a + self._low_b
        super().__init__({"i_a": In(width_a), "i_b": In(width_b), "i_c": In(width_c), "o": Out(width_a + width_b)})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        low_a, low_b = self._low_a, self._low_b
        a_high, b_high = self.i_a[low_a:], self.i_b[low_b:]
        m.submodules.outer = outer = Multiplier(a_high.shape(), b_high.shape())
        m.submodules.low_b = by_low_b = RowMultiplier(self.i_a.shape(), unsigned(low_b))
        m.submodules.low_a = by_low_a = RowMultiplier(b_high.shape(), unsigned(low_a))
        m.d.comb += [
            outer.i_a.eq(a_high),
            outer.i_b.eq(b_high),
            by_low_b.i_a.eq(self.i_a),
            by_low_b.i_b.eq(self.i_b[:low_b]),
            by_low_a.i_a.eq(b_high),
            by_low_a.i_b.eq(self.i_a[:low_a]),
        ]
        cross = delayed(m, by_low_b.o + (by_low_a.o << low_b), 1)
        high = delayed(m, outer.o + delayed(m, self.i_c, Multiplier.LATENCY), 1)
        m.d.comb += self.o.eq(delayed(m, (cross + (high << self.offset_shift))[: len(self.o)], 1))
        return m
