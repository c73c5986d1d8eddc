"""Multiplications wider than a DSP block, and such as need none."""

from amaranth.hdl import C, Cat, Module, Shape, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.digit_multiplier import DigitMultiplier
from rtl.pipeline import delayed
from rtl.primitives import MaskedAdder, Multiplier
from rtl.primitives.families import multiplies

__all__ = ["PipelinedMultiplier", "RowMultiplier"]


class RowMultiplier(wiring.Component):
    """Multiply by a few bits without a DSP block: ``o = i_a * i_b + i_c``, one adder for each bit of `i_b`.

    Registers: the sums of as many equal parts of the rows as there are cycles, from the lowest row on.

    Latency: `LATENCY`, that of `rtl.primitives.Multiplier`, beside which it stands. Throughput: one product a cycle.
    Backpressure: none.

    Parameters
    ----------
    shape_a, shape_b : Shape
        Operands' shapes, signed or not; `shape_b` has at least 2 bits.
    adds : bool
        Whether there is a third operand.

    Members
    -------
    i_a : In(shape_a)
    i_b : In(shape_b)
        Operands.
    i_c : In(shape_a)
        With `adds`, the third one.
    o : Out(shape of the operands' product)
        Result of the operands `LATENCY` cycles ago; it must fit.

    Raises
    ------
    ValueError
        If `shape_b` has less than 2 bits, or is signed and `shape_a` isn't.
    """

    LATENCY = Multiplier.LATENCY

    def __init__(self, shape_a, shape_b, *, adds: bool = False):
        shape_a, shape_b = Shape.cast(shape_a), Shape.cast(shape_b)
        if shape_b.width < 2:
            raise ValueError(f"Second operand must have at least 2 bits, not {shape_b.width!r}")
        if shape_b.signed and not shape_a.signed:
            raise ValueError("First operand must be signed where the second is")
        self._adds = adds
        product = Shape(shape_a.width + shape_b.width, shape_a.signed)
        members = {"i_a": In(shape_a), "i_b": In(shape_b), "o": Out(product)}
        super().__init__(members | ({"i_c": In(shape_a)} if adds else {}))

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        bits, negative = self.i_b.shape().width, self.i_b.shape().signed
        # of a row's sum the lowest bit is the product's, the others go on
        row = Shape(self.i_a.shape().width + 1, self.o.shape().signed)
        a, b, product, upper = self.i_a, self.i_b, C(0, 0), Signal(row)
        if not self._adds:
            first = (a & b[0].replicate(len(a)))[: len(a)]
            m.d.comb += upper.eq(first.as_signed() if self.i_a.shape().signed else first)
        cuts = {-(-part * bits // self.LATENCY) for part in range(1, self.LATENCY)} - {bits}
        for bit in range(0 if self._adds else 1, bits):
            if bit in cuts:
                a, b, product, upper = (delayed(m, value, 1) for value in (a, b, product, upper))
            addend, rest = Signal(row, name=f"addend_{bit}"), Signal(row, name=f"rest_{bit}")
            subtract = negative and bit == bits - 1
            m.d.comb += [addend.eq(~a if subtract else a), rest.eq(upper >> 1 if bit else self.i_c)]
            if subtract:
                # a carry from one bit below makes the complement the negative
                addend, rest = Cat(C(1), addend), Cat(C(1), rest)
            m.submodules[f"row_{bit}"] = adder = MaskedAdder(len(addend), whole=True)
            m.d.comb += [adder.i_a.eq(addend), adder.i_mask.eq(b[bit]), adder.i_b.eq(rest)]
            if bit:
                product = Cat(product, upper[0])
            total = adder.o[len(addend) - row.width :]
            upper = total.as_signed() if row.signed else total
        m.d.comb += self.o.eq(delayed(m, Cat(product, upper), self.LATENCY - len(cuts)))
        return m


class PipelinedMultiplier(wiring.Component):
    """Multiply two numbers of up to 36 bits and add a third: ``o = i_a * i_b + i_c * 2**offset_shift``.

    Two DSP blocks multiply the upper 18 bits of `i_a` with the upper 18 bits of `i_b` and with the others; what is
    left, `i_b` by the lower bits of `i_a`, is added up by rows, from the third operand on:

    ====== =========================================================================
    1-3    ``a_high * b_high``, ``a_high * b_low``, ``a_low * b + c``
    4      sum of the latter two
    5      result
    ====== =========================================================================

    On a family without such blocks it is a `rtl.digit_multiplier.DigitMultiplier`.

    Bare signals: it sits inside a pipeline that never stalls.

    Latency: 5 cycles (`LATENCY`). Throughput: one product a cycle. Backpressure: none.

    Parameters
    ----------
    width_a, width_b : int
        Operand widths [bits], 19 to 36.
    width_c : int
        Width of the third operand [bits], 0 without one, at most that of `i_b` less `offset_shift`.

    Members
    -------
    i_a : In(width_a)
        Taken a cycle after the others.
    i_b : In(width_b)
    i_c : In(width_c)
        Operands, unsigned. The result must fit its width.
    o : Out(width_a + width_b)
        Result of the `i_a` that came `LATENCY` cycles ago.

    Raises
    ------
    ValueError
        If a width isn't in its range.
    """

    LATENCY = Multiplier.LATENCY + 2

    def __init__(self, *, width_a: int, width_b: int, width_c: int = 0):
        for name, width in (("width_a", width_a), ("width_b", width_b)):
            if not isinstance(width, int) or not Multiplier.WIDEST < width <= 2 * Multiplier.WIDEST:
                limits = f"{Multiplier.WIDEST + 1} to {2 * Multiplier.WIDEST}"
                raise ValueError(f"Multiplier's {name} must be an integer in {limits}, not {width!r}")
        self._low_a, self._low_b = width_a - Multiplier.WIDEST, width_b - Multiplier.WIDEST
        self.offset_shift = self._low_a + self._low_b
        most = max(width_b - self.offset_shift, 0)
        if not isinstance(width_c, int) or not 0 <= width_c <= most:
            raise ValueError(f"Multiplier's width_c must be an integer in 0 to {most}, not {width_c!r}")
        super().__init__({"i_a": In(width_a), "i_b": In(width_b), "i_c": In(width_c), "o": Out(width_a + width_b)})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        if multiplies(platform):
            self._blocks(m)
        else:
            m.submodules.digits = digits = DigitMultiplier(
                width_a=len(self.i_a), width_b=len(self.i_b), width_c=len(self.i_c) + self.offset_shift
            )
            m.d.comb += [
                digits.i_a.eq(self.i_a),
                digits.i_b.eq(self.i_b),
                digits.i_c.eq(self.i_c << self.offset_shift),
                self.o.eq(delayed(m, digits.o, self.LATENCY - digits.latency)),
            ]
        return m

    def _blocks(self, m: Module) -> None:
        low_a, low_b = self._low_a, self._low_b
        a_high, b = self.i_a[low_a:], delayed(m, self.i_b, 1)
        m.submodules.outer = outer = Multiplier(a_high.shape(), unsigned(Multiplier.WIDEST))
        m.submodules.inner = inner = Multiplier(a_high.shape(), unsigned(low_b))
        m.submodules.rows = rows = RowMultiplier(b.shape(), unsigned(low_a), adds=len(self.i_c) > 0)
        m.d.comb += [
            outer.i_a.eq(a_high),
            outer.i_b.eq(b[low_b:]),
            inner.i_a.eq(a_high),
            inner.i_b.eq(b[:low_b]),
            rows.i_a.eq(b),
            rows.i_b.eq(self.i_a[:low_a]),
        ]
        if len(self.i_c):
            m.d.comb += rows.i_c.eq(delayed(m, self.i_c, 1) << self.offset_shift)
        low = delayed(m, rows.o + (inner.o << low_a), 1)
        high = delayed(m, outer.o, 1)
        m.d.comb += self.o.eq(delayed(m, (low + (high << self.offset_shift))[: len(self.o)], 1))
