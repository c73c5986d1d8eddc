"""The mesh of small arrays: sums in DSP blocks as far as these have bits, the rest of them in counters."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from rtl.pipeline import delayed
from rtl.primitives import AccumulatorPair

_LOW_BITS = 16


class UpperSum(wiring.Component):
    """The bits of a sum from 16 on, by its lower ones: a product is at most 2**14, a quarter of their range.

    They have wrapped upwards where their first two bits go from 11 to 00, and downwards from 00 to 11.

    Latency: 1 from the lower bits to these. Throughput: one change a cycle. Backpressure: none.

    Members
    -------
    i_quarter : first two of the lower bits
    i_clear : with the last lower bits of a sum; both start from zero
    o : the upper bits
    """

    def __init__(self, width: int):
        super().__init__({"i_quarter": In(2), "i_clear": In(1), "o": Out(width)})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        before, wrapped, cleared = Signal(2), Signal(), Signal()
        # from an impossible 11 to the 00 of a sum that starts: the register then has no other enable
        m.d.sync += [before.eq(Mux(self.i_clear, 3, self.i_quarter)), cleared.eq(self.i_clear)]
        m.d.comb += wrapped.eq(
            (self.i_quarter[0] == self.i_quarter[1]) & (before[0] == before[1]) & (before[0] != self.i_quarter[0])
        )
        down = self.i_quarter[1]
        with m.If(wrapped):
            m.d.sync += self.o.eq(Mux(cleared, 0, self.o + Cat(1, down.replicate(len(self.o) - 1))))
        return m


class SmallMesh(wiring.Component):
    """`rtl.mesh.Mesh` of aligned columns whose sums move up, with the accumulators of DSP blocks.

    Accumulators start from zero in the cycle after a sum's last step, in which there must be no other.

    Latency: ``EDGE_TO_SHADOW + p`` from the last step on the edge to row p's sum in its shadow register, of the lower
    bits one less. Throughput: one step, rows * cols products, a cycle. Bare signals.

    Members
    -------
    i_clear : all sums start from zero
    o_due : in row 0 the sum of the last `i_last` can be read from now on, and of the others as these move up
    i_a, i_column, i_broadcast, i_w, i_valid, i_last, i_shift, o_shadow : as `rtl.mesh.Mesh` has them
    """

    def __init__(self, *, rows: int, cols: int, sum_bits: int):
        self._rows, self._cols, self._bits = rows, cols, sum_bits
        super().__init__(
            {
                "i_clear": In(1),
                "i_a": In(data.ArrayLayout(signed(8), rows)),
                "i_column": In(data.ArrayLayout(signed(8), cols)),
                "i_broadcast": In(1),
                "i_w": In(data.ArrayLayout(signed(8), cols)),
                "i_valid": In(1),
                "i_last": In(1),
                "i_shift": In(cols),
                "o_due": Out(1),
                "o_shadow": Out(data.ArrayLayout(signed(sum_bits), cols)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        rows, cols = self._rows, self._cols
        assert pipeline.EDGE_TO_SHADOW == AccumulatorPair.LATENCY + 2
        # bit n is of n cycles ago; a row's operands come a cycle after those of the row before
        enable, last, broadcast = (Signal(rows + 4, name=name) for name in ("enable", "last", "broadcast"))
        inputs = (self.i_valid, self.i_valid & self.i_last, self.i_broadcast)
        for chain, bit in zip((enable, last, broadcast), inputs, strict=True):
            m.d.comb += chain[0].eq(bit)
            m.d.sync += chain[1:].eq(chain[:-1])

        shadows = [
            [Signal(self._bits, name=f"shadow_{p}_{c}", reset_less=True) for c in range(cols)] for p in range(rows)
        ]
        weights = self.i_w
        for p in range(rows):
            added, ended = enable[p + AccumulatorPair.LATENCY - 1], last[p + AccumulatorPair.LATENCY]
            for c in range(0, cols, 2):
                m.submodules[f"accumulators_{p}_{c}"] = pair = AccumulatorPair()
                m.d.comb += [pair.i_enable.eq(added), pair.i_clear.eq(ended | self.i_clear)]
                for half in range(2):
                    column = c + half
                    m.submodules[f"upper_{p}_{column}"] = upper = UpperSum(self._bits - _LOW_BITS)
                    low, shadow = pair.o[half], shadows[p][column]
                    below = shadows[p + 1][column] if p < rows - 1 else 0
                    m.d.comb += [
                        pair.i_a[half].eq(Mux(broadcast[p], self.i_column[column], self.i_a[p])),
                        pair.i_b[half].eq(weights[column]),
                        upper.i_quarter.eq(low[-2:]),
                        upper.i_clear.eq(ended | self.i_clear),
                    ]
                    with m.If(self.i_shift[column]):
                        m.d.sync += shadow.eq(below)
                    with m.If(ended):
                        m.d.sync += shadow[:_LOW_BITS].eq(low)
                    with m.If(last[p + AccumulatorPair.LATENCY + 1]):
                        m.d.sync += shadow[_LOW_BITS:].eq(upper.o)
            weights = [delayed(m, weight, 1) for weight in weights]
        m.d.comb += [self.o_due.eq(last[-1]), *(self.o_shadow[c].eq(shadows[0][c]) for c in range(cols))]
        return m
