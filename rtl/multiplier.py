"""The requantizer's multiplier, apart so that a vendor's DSP blocks can take its place."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.pipeline import delayed

__all__ = ["PipelinedMultiplier"]


class PipelinedMultiplier(wiring.Component):
    """Multiply two unsigned numbers and add a third: ``o = i_a * i_b + i_c * 2**offset_shift``, `stages` cycles later.

    Both operands are cut in halves, so each partial product fits one DSP block of 18x18 bits when the operands have
    at most 36, and no stage holds more than one multiplication or one addition:

    ====== ================= =================== ========== ======
    stages 1st register      2nd                 3rd        4th
    ====== ================= =================== ========== ======
    2      operands          result
    3      operands          partial products    result
    4      operands          partial products    cross sum  result
    ====== ================= =================== ========== ======

    The third operand joins the cross sum, which begins at bit ``offset_shift = min(width_a // 2, width_b // 2)``.

    Bare signals: it sits inside a pipeline that never stalls.

    Latency: `stages` cycles. Throughput: one product a cycle. Backpressure: none.

    Parameters
    ----------
    width_a, width_b : int
        Operand widths [bits], at least 2.
    width_c : int
        Width of the third operand [bits], 0 without one.
    stages : int
        Registers from input to output, 2 to 4.

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
        If `width_a` or `width_b` is below 2, `width_c` below 0, or `stages` isn't 2, 3 or 4.
    """

    def __init__(self, *, width_a: int, width_b: int, width_c: int = 0, stages: int = 4):
        for name, width in (("width_a", width_a), ("width_b", width_b)):
            if not isinstance(width, int) or width < 2:
                raise ValueError(f"Multiplier's {name} must be an integer of at least 2, not {width!r}")
        if not isinstance(width_c, int) or width_c < 0:
            raise ValueError(f"Multiplier's width_c must be an integer of at least 0, not {width_c!r}")
        if stages not in (2, 3, 4):
            raise ValueError(f"Multiplier must have 2, 3 or 4 stages, not {stages!r}")
        self.stages = stages
        self.offset_shift = min(width_a, width_b) // 2
        super().__init__({"i_a": In(width_a), "i_b": In(width_b), "i_c": In(width_c), "o": Out(width_a + width_b)})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        a = delayed(m, self.i_a, 1)
        b = delayed(m, self.i_b, 1)
        product = Signal.like(self.o, reset_less=True)
        m.d.comb += self.o.eq(product)
        if self.stages == 2:
            m.d.sync += product.eq(a * b + (delayed(m, self.i_c, 1) << self.offset_shift))
            return m

        half_a, half_b = len(a) // 2, len(b) // 2
        offset = delayed(m, self.i_c, 2) << self.offset_shift
        a_low, a_high = a[:half_a], a[half_a:]
        b_low, b_high = b[:half_b], b[half_b:]
        low = delayed(m, a_low * b_low, 1)
        high = delayed(m, a_high * b_high, 1)
        low_high = delayed(m, a_low * b_high, 1) << half_b
        high_low = delayed(m, a_high * b_low, 1) << half_a
        # The two outer products don't overlap, so their sum is a concatenation.
        outer = Cat(low, high)
        if self.stages == 3:
            m.d.sync += product.eq(outer + low_high + high_low + offset)
            return m

        m.d.sync += product.eq(delayed(m, outer, 1) + delayed(m, low_high + high_low + offset, 1))
        return m
