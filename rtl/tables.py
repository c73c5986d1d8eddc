"""Tables: any function of a byte, in the output path."""

from amaranth import Cat, Module, Mux
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import isa
from hwq.config import ArrayConfig
from rtl.layouts import descriptor_layout
from rtl.pipeline import delayed
from rtl.window_ram import WindowRam


class Tables(wiring.Component):
    """Map `lanes` bytes a cycle through one of `config.tables` tables.

    ``o = tables[i_table - 1][i + 128]``; ``o = i`` where `i_table` is 0, and where the architecture has no tables. Each
    lane has its own copy of all tables; a write through the window goes into every copy, a read comes from lane 0's.
    Four entries share a memory word, as they share one of the bus.

    Latency: 2 cycles (`LATENCY`): the memory's, then a multiplexer of the word's bytes. Throughput: one result a lane a
    cycle. Backpressure: none.

    Members
    -------
    i_table : constant of the layer
    i, o : one signed byte for each lane
    i_window_address, i_window_read, i_window_write, i_window_mask, i_window_data, o_window : the bus, while nothing
        passes through; see `rtl.window_ram.WindowRam`
    """

    LATENCY = 2

    def __init__(self, config: ArrayConfig):
        self._lanes, self._tables = config.lanes, config.tables
        super().__init__(
            {
                "i_table": In(descriptor_layout(config)["table"].shape),
                "i": In(data.ArrayLayout(8, config.lanes)),
                "o": Out(data.ArrayLayout(8, config.lanes)),
                "i_window_address": In(22),
                "i_window_read": In(1),
                "i_window_write": In(1),
                "i_window_mask": In(4),
                "i_window_data": In(32),
                "o_window": Out(32),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        word_bytes = 4
        low = ceil_log2(word_bytes)
        words = isa.TABLE_ENTRIES // word_bytes
        table = (self.i_table - 1)[: ceil_log2(max(self._tables, 1))]
        for lane in range(self._lanes):
            plain = delayed(m, self.i[lane], 1)
            result = plain
            if self._tables:
                memory = WindowRam(word_bytes=word_bytes, depth=self._tables * words)
                m.submodules[f"memory_{lane}"] = memory
                entry = self.i[lane] ^ 0x80  # signed order: the first entry is that of -128
                m.d.comb += [
                    memory.i_address.eq(Cat(entry[low:], table)),
                    memory.i_window_address.eq(self.i_window_address),
                    memory.i_window_read.eq(self.i_window_read),
                    memory.i_window_write.eq(self.i_window_write),
                    memory.i_window_mask.eq(self.i_window_mask),
                    memory.i_window_data.eq(self.i_window_data),
                ]
                byte = memory.o_word.word_select(delayed(m, entry[:low], 1), 8)
                result = Mux(self.i_table == 0, plain, byte)
                if lane == 0:
                    m.d.comb += self.o_window.eq(memory.o_window)
            m.d.comb += self.o[lane].eq(delayed(m, result, 1))
        return m
