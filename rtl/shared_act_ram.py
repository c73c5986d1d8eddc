"""Activation memory with one port: words of four bytes at even addresses, read or written."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.layouts import address_shape, below
from rtl.primitives import SinglePortRam

WORD_BYTES = 4


class SharedActRam(wiring.Component):
    """Two banks of 16 bits side by side; byte a lies in bank ``a // 2 % 2`` at index ``a // 4``.

    ``o_data[i] = memory[i_address + i]`` for i in 0..3 at an even address, for i = 0 at an odd one; bytes past the end
    of memory are undefined.

    Latency: `read_latency` from `i_address` to `o_data`; a write is in memory `write_latency` cycles after `i_write`.
    Throughput: one read or one write a cycle; in the cycle of a write `i_address` isn't served. Bare signals; nothing
    pushes back.

    Members
    -------
    i_address : of a read or write, the latter's even
    i_read, i_count : a read whose first `i_count` bytes matter
    o_data : the bytes, first one lowest
    i_write, i_write_data, i_write_mask : bytes to write, first one lowest
    i_odd : the bytes to write were meant for an odd address
    o_range : two cycles after a read or write that leaves the memory, a read of several bytes at an odd address, or a
        write with `i_odd`; such writes are dropped
    """

    def __init__(self, config: ArrayConfig):
        self._bytes = config.act_bytes
        self._read_latency, self._write_latency = pipeline.read_latency(config), pipeline.write_latency(config)
        super().__init__(
            {
                "i_read": In(1),
                "i_address": In(address_shape(config)),
                "i_count": In(range(WORD_BYTES + 1)),
                "o_range": Out(1),
                "o_data": Out(data.ArrayLayout(8, WORD_BYTES)),
                "i_write": In(1),
                "i_write_data": In(data.ArrayLayout(8, WORD_BYTES)),
                "i_write_mask": In(WORD_BYTES),
                "i_odd": In(1),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        assert (self._read_latency, self._write_latency) == (3, 2)
        depth = self._bytes // WORD_BYTES

        several = Mux(self.i_write, self.i_write_mask[1:].any(), self.i_count > 1)
        beyond_half = Mux(self.i_write, self.i_write_mask[2:].any(), self.i_count > 2)
        address = Signal.like(self.i_address)
        used, write, odd, crosses, misplaced = (Signal() for _ in range(5))
        mask, word = Signal(WORD_BYTES), Signal(8 * WORD_BYTES)
        swap, given = self.i_address[1], self.i_write_data.as_value()
        m.d.sync += [
            address.eq(self.i_address),
            used.eq(self.i_read | self.i_write),
            write.eq(self.i_write & ~self.i_odd),
            misplaced.eq(self.i_write & self.i_odd),
            odd.eq(several & ~self.i_write),
            crosses.eq(beyond_half),
            mask.eq(Mux(swap, Cat(self.i_write_mask[2:], self.i_write_mask[:2]), self.i_write_mask)),
            word.eq(Mux(swap, Cat(given[16:], given[:16]), given)),
        ]
        past, row = Signal(), address[2:]
        m.d.comb += past.eq(~below(row, depth) | ((row == depth - 1) & address[1] & crosses))
        m.d.sync += self.o_range.eq((used & (past | (odd & address[0]))) | misplaced)
        place = Signal(2)
        m.d.sync += place.eq(address[:2])
        raw = Signal(8 * WORD_BYTES)
        for bank in range(2):
            m.submodules[f"bank_{bank}"] = memory = SinglePortRam(depth)
            bits = slice(16 * bank, 16 * (bank + 1))
            m.d.comb += [
                memory.i_address.eq(row + (address[1] if bank == 0 else 0)),
                memory.i_write.eq(write & ~past),
                memory.i_mask.eq(mask[2 * bank : 2 * bank + 2]),
                memory.i_data.eq(word[bits]),
                raw[bits].eq(memory.o_data),
            ]
        halves = Mux(place[1], Cat(raw[16:], raw[:16]), raw)
        m.d.sync += self.o_data.as_value().eq(Cat(Mux(place[0], halves[8:16], halves[:8]), halves[8:]))
        return m
