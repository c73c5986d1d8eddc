"""Every mesh row's activations, from four bytes at a time to one byte a cycle, in block RAM."""

import functools
import operator

from amaranth import C, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.pipeline import delayed
from rtl.unordered import UNORDERED


class RowBuffers(wiring.Component):
    """`rows` double buffers of a part, for what `rtl.serializer.Serializer` does with registers.

    Row p's part comes p cycles after row 0's, and so do its steps. A step with `i_take` outputs the first byte of the
    waiting part, one without it the next byte of the part taken last. The issuer guarantees that a part is waiting when
    it is taken and free when `i_write` comes, so nothing pushes back.

    Latency: 2 + p, from a step to its byte in row p. Throughput: one byte a row and cycle.

    Parameters
    ----------
    rows : int
        At least 2, since a part takes two cycles to be written.

    Members
    -------
    i_start : no part is waiting, and none is used
    i_write, i_row, i_data : store four bytes, first one lowest, in a row's waiting part
    i_step : output row 0's next byte
    i_take : with `i_step`, from the waiting part
    o : a byte for each row, signed
    """

    def __init__(self, *, rows: int):
        if rows < 2:
            raise ValueError(f"Rows must be at least 2, not {rows!r}")
        self._rows = rows
        super().__init__(
            {
                "i_start": In(1),
                "i_write": In(1),
                "i_row": In(range(rows)),
                "i_data": In(32),
                "i_step": In(1),
                "i_take": In(1),
                "o": Out(data.ArrayLayout(8, rows)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        rows = self._rows
        filled, taken, byte = Signal(), Signal(), Signal(2)  # the part being written, being read; its byte
        with m.If(self.i_write & (self.i_row == rows - 1)):
            m.d.sync += filled.eq(~filled)
        with m.If(self.i_step):
            m.d.sync += [byte.eq(Mux(self.i_take, 0, byte + 1)), taken.eq(taken ^ self.i_take)]
        with m.If(self.i_start):
            m.d.sync += [filled.eq(0), taken.eq(1)]

        # a part's first half is written at once, its second in the next cycle, when another row's first half is
        chosen = [self.i_write & (self.i_row == row) for row in range(rows)]
        later, part_later = delayed(m, Cat(chosen), 1), delayed(m, filled, 1)
        first, second = self.i_data[:16], delayed(m, self.i_data[16:], 1)
        buses = rows if rows % 2 else 2
        halves = [Mux(functools.reduce(operator.or_, chosen[bus::buses]), first, second) for bus in range(buses)]
        place = Cat(byte, taken)
        for row in range(rows):
            memory = Memory(shape=16, depth=4, init=[], attrs={**UNORDERED, "ram_style": "block"})
            m.submodules[f"row_{row}"] = memory
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(chosen[row] | later[row]),
                write.addr.eq(Mux(chosen[row], Cat(C(0, 1), filled), Cat(C(1, 1), part_later))),
                write.data.eq(halves[row % buses]),
                read.addr.eq(place[1:]),
                self.o[row].eq(read.data.word_select(delayed(m, place[0], 1), 8)),
            ]
            place = delayed(m, place, 1)
        return m
