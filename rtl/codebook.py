"""Codebook: the sixteen weights that indices of 4 bits stand for."""

from amaranth import Array, Module
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwq import isa
from rtl.pipeline import delayed


class Codebook(wiring.Component):
    """A table of `BOOK_ENTRIES` bytes for each column, all of them alike, so that every column looks up at once.

    Latency: none from `i_index` to `o`; an entry loaded in one cycle is there two cycles later. Throughput: one index a
    column and one loaded entry a cycle.

    Members
    -------
    i_load, i_entry : this entry is being loaded
    i_word, i_column : the word of weight memory that has it, and which byte of it
    i_index : one for each column
    o : the entries
    """

    def __init__(self, *, cols: int):
        self._cols = cols
        super().__init__(
            {
                "i_load": In(1),
                "i_entry": In(range(isa.BOOK_ENTRIES)),
                "i_word": In(data.ArrayLayout(8, cols)),
                "i_column": In(range(cols)),
                "i_index": In(data.ArrayLayout(range(isa.BOOK_ENTRIES), cols)),
                "o": Out(data.ArrayLayout(8, cols)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        columns = Array(self.i_word[c] for c in range(min(self._cols, isa.BOOK_ENTRIES)))
        load, entry, value = (delayed(m, value, 1) for value in (self.i_load, self.i_entry, columns[self.i_column]))
        for c in range(self._cols):
            table = Memory(shape=8, depth=isa.BOOK_ENTRIES, init=[])
            m.submodules[f"table_{c}"] = table
            write, read = table.write_port(), table.read_port(domain="comb")
            m.d.comb += [
                write.addr.eq(entry),
                write.data.eq(value),
                write.en.eq(load),
                read.addr.eq(self.i_index[c]),
                self.o[c].eq(read.data),
            ]
        return m
