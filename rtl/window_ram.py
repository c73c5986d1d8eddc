"""Memory of wide words with a 32-bit window: weights and parameters."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.primitives import UNORDERED


class WindowRam(wiring.Component):
    """`depth` words of `word_bytes` bytes; the bus writes and reads 32 bits of a word at a time.

    Word i occupies the window's bytes from ``i * stride`` on, with `stride` the next power of two, at least 4.

    Latency: 1 from `i_address` to `o_word`, and from `i_window_address` to `o_window`. Throughput: one read and one
    window write a cycle. The window shares the read port: while `i_window_read` is set, `i_address` isn't served.

    Members
    -------
    i_address, o_word : the unit's read port
    i_window_address : 32-bit word of the window
    i_window_read, i_window_write, i_window_mask, i_window_data, o_window : the bus
    """

    def __init__(self, *, word_bytes: int, depth: int):
        self._word_bytes, self._depth = word_bytes, depth
        self._words = max(1, (1 << ceil_log2(word_bytes)) // 4)
        self._index_bits = max(1, ceil_log2(depth))
        super().__init__(
            {
                "i_address": In(self._index_bits),
                "o_word": Out(8 * word_bytes),
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
        width = 8 * self._word_bytes
        low = ceil_log2(self._words)
        part, part_read = self.i_window_address[:low], Signal(max(1, low))
        index = self.i_window_address[low:]
        address = Signal(self._index_bits)
        m.d.comb += address.eq(Mux(self.i_window_read, index, self.i_address))
        m.d.sync += part_read.eq(part)
        # block RAM is as deep as a power of two: what exceeds one has a memory of its own
        base = 1 << (self._depth.bit_length() - 1)
        rest = self._depth - base
        write_data, write_enable = Signal(width), Signal(self._word_bytes)
        words = []
        for depth, upper in ((base, 0), (rest, 1))[: 2 if rest else 1]:
            memory = Memory(shape=width, depth=depth, init=[], attrs=UNORDERED)
            m.submodules["upper" if upper else "memory"] = memory
            read_port, write_port = memory.read_port(), memory.write_port(granularity=8)
            bits = max(1, ceil_log2(depth))
            m.d.comb += [
                read_port.addr.eq(address[:bits]),
                write_port.addr.eq(index[:bits]),
                write_port.data.eq(write_data),
                write_port.en.eq(write_enable & (index >= base if upper else index < base).replicate(self._word_bytes)),
            ]
            words.append(read_port.data)
        upper_read = Signal()
        m.d.sync += upper_read.eq(address >= base)
        m.d.comb += self.o_word.eq(Mux(upper_read, words[-1], words[0]))
        for word in range(self._words):
            start = 4 * word
            if start >= self._word_bytes:
                continue
            count = min(4, self._word_bytes - start)
            bits = slice(8 * start, 8 * (start + count))
            m.d.comb += write_data[bits].eq(self.i_window_data)
            with m.If(self.i_window_write & (part == word if low else 1) & (index < self._depth)):
                m.d.comb += write_enable[start : start + count].eq(self.i_window_mask)
            with m.If(part_read == word):
                m.d.comb += self.o_window.eq(self.o_word[bits])
        return m
