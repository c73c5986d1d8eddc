"""Tables: any function of a byte, in the output path."""

from amaranth import Cat, Const, Module, Mux
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import isa
from hwq.config import ArrayConfig
from rtl.layouts import descriptor_layout
from rtl.pipeline import delayed
from rtl.unordered import UNORDERED
from rtl.window_ram import WindowRam


class Tables(wiring.Component):
    """Map `lanes` bytes a cycle through one of `config.tables` tables.

    ``o = tables[i_table - 1][i + 128]``; ``o = i`` where `i_table` is 0, and where the architecture has no tables. A
    write through the window goes into every copy of the tables, a read comes from the first. Two lanes share a copy, in
    a memory whose two ports both read and write; an odd number of lanes, and arrays with one port of activation memory,
    whose FPGAs have no such memories, have a copy for each lane.

    Latency: 3 cycles (`LATENCY`): the memory's, one that a byte of its word has to come. Throughput: one result a lane
    a cycle. Backpressure: none.

    Members
    -------
    i_table : constant of the layer
    i, o : one signed byte for each lane
    i_window_address, i_window_read, i_window_write, i_window_mask, i_window_data, o_window : the bus, while nothing
        passes through; see `rtl.window_ram.WindowRam`
    """

    LATENCY = 3

    def __init__(self, config: ArrayConfig):
        self._lanes, self._tables = config.lanes, config.tables
        self._two_ports = config.lanes % 2 == 0 and not config.one_port
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
        table = (self.i_table - 1)[: ceil_log2(max(self._tables, 1))]
        # signed order: the first entry is that of -128
        entries = [Cat(self.i[lane] ^ 0x80, table) for lane in range(self._lanes)]
        mapped = self._paired if self._two_ports else self._single
        bytes_ = mapped(m, entries) if self._tables else [None] * self._lanes
        none = delayed(m, self.i_table == 0, 2)
        for lane, byte in enumerate(bytes_):
            plain = delayed(m, self.i[lane], 2)
            result = plain if byte is None else Mux(none, plain, byte)
            m.d.comb += self.o[lane].eq(delayed(m, result, 1))
        return m

    def _single(self, m, entries):
        """Return the bytes at `entries`, two cycles later, of a memory each that is read a bus word at a time."""
        out = []
        for lane, entry in enumerate(entries):
            memory = WindowRam(word_bytes=4, depth=self._tables * isa.TABLE_ENTRIES // 4)
            m.submodules[f"memory_{lane}"] = memory
            m.d.comb += [
                memory.i_address.eq(entry[2:]),
                memory.i_window_address.eq(self.i_window_address),
                memory.i_window_read.eq(self.i_window_read),
                memory.i_window_write.eq(self.i_window_write),
                memory.i_window_mask.eq(self.i_window_mask),
                memory.i_window_data.eq(self.i_window_data),
            ]
            if lane == 0:
                m.d.comb += self.o_window.eq(memory.o_window)
            out.append(delayed(m, memory.o_word.word_select(delayed(m, entry[:2], 1), 8), 1))
        return out

    def _paired(self, m, entries):
        """Return the bytes at `entries`, two cycles later, of a memory for two lanes, of whose ports each has one.

        A port reads and writes half a bus word; the window has both at once.
        """
        out, depth = [], self._tables * isa.TABLE_ENTRIES // 2
        word, windowed = self.i_window_address, self.i_window_read | self.i_window_write
        inside = word < depth // 2
        for first in range(0, self._lanes, 2):
            m.submodules[f"memory_{first}"] = memory = Memory(shape=16, depth=depth, init=[], attrs=UNORDERED)
            for half in range(2):
                entry = entries[first + half]
                read, write = memory.read_port(), memory.write_port(granularity=8)
                address = Mux(windowed, Cat(Const(half, 1), word), entry[1:])[: ceil_log2(depth)]
                m.d.comb += [
                    read.addr.eq(address),
                    write.addr.eq(address),
                    write.data.eq(self.i_window_data.word_select(half, 16)),
                    write.en.eq(self.i_window_mask.word_select(half, 2) & (self.i_window_write & inside).replicate(2)),
                ]
                out.append(delayed(m, read.data.word_select(delayed(m, entry[:1], 1), 8), 1))
                if first == 0:
                    m.d.comb += self.o_window.word_select(half, 16).eq(read.data)
        return out
