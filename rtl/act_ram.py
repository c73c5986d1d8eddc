"""Activation memory: reads and writes runs of bytes at any byte address."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.layouts import address_shape
from rtl.parity import PARITY_BYTE, checked, stored
from rtl.pipeline import delayed
from rtl.unordered import UNORDERED


class ActRam(wiring.Component):
    """`fetch_bytes` byte-wide banks; byte a lies in bank a mod F at index a // F, and a rotator lines the bytes up.

    ``o_data[i] = memory[i_address + i]`` for i in 0..F-1; bytes past the end of memory are undefined.

    Latency: `read_latency` from `i_address` to `o_data`; a write is in memory `write_latency` cycles after
    `i_write`. Throughput: one read and one write a cycle, at any addresses; a read that meets the write of the same
    byte returns either value. Bare signals; nothing pushes back.

    Members
    -------
    i_read, i_address, i_count : a read whose first `i_count` bytes matter
    o_data : the bytes, first one lowest
    i_write, i_write_address, i_write_data : bytes to write, first one lowest
    i_write_count, i_write_mask : extent of the write; which of its bytes are written
    o_range : three cycles after a read or a write that leaves the memory; the write is dropped
    o_wrong : with `config.parity`, with `o_data` of a read whose bytes that matter aren't all as written
    """

    def __init__(self, config: ArrayConfig):
        self._fetch = config.fetch_bytes
        self._read_latency, self._write_latency = pipeline.read_latency(config), pipeline.write_latency(config)
        self._bytes = config.act_bytes
        self._depth = config.act_bytes // config.fetch_bytes
        self._parity = bool(config.parity)
        self.write_bytes = max(config.lanes, 4)
        super().__init__(
            {
                "i_read": In(1),
                "i_address": In(address_shape(config)),
                "i_count": In(range(self._fetch + 1)),
                "o_range": Out(1),
                "o_data": Out(data.ArrayLayout(8, self._fetch)),
                "i_write": In(1),
                "i_write_address": In(address_shape(config)),
                "i_write_data": In(data.ArrayLayout(8, self.write_bytes)),
                "i_write_count": In(range(self.write_bytes + 1)),
                "i_write_mask": In(self.write_bytes),
            }
            | ({"o_wrong": Out(1)} if config.parity else {})
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        assert (self._read_latency, self._write_latency) == (6, 5)
        fetch, low = self._fetch, ceil_log2(self._fetch)
        index_bits = max(1, ceil_log2(self._depth))

        address = Signal.like(self.i_address)
        raw = Signal(data.ArrayLayout(8, fetch))
        m.d.sync += address.eq(self.i_address)

        reading, count = Signal(), Signal.like(self.i_count)
        # the one that writes may be far away
        writing, given_mask, given_address, given_count, given_data = (
            delayed(m, port, 1)
            for port in (self.i_write, self.i_write_mask, self.i_write_address, self.i_write_count, self.i_write_data)
        )
        read_past, write_past, write = Signal(), Signal(), Signal()
        read_end, write_end = (delayed(m, end, 1) for end in (address + count, given_address + given_count))
        read = delayed(m, reading, 1)
        m.d.comb += [read_past.eq(read_end > self._bytes), write_past.eq(write_end > self._bytes)]
        m.d.sync += [
            reading.eq(self.i_read),
            count.eq(self.i_count),
            self.o_range.eq((read & read_past) | (write & write_past)),
        ]

        # a power of two of bytes: a bank takes the one of its number modulo that, or none
        given = [given_data[8 * i : 8 * i + 8] for i in range(self.write_bytes)]
        given_bits = ceil_log2(self.write_bytes)
        write_address = Signal.like(self.i_address)
        write_data = Signal(data.ArrayLayout(8, self.write_bytes))
        write_mask = Signal(fetch)
        m.d.sync += [
            write.eq(writing),
            write_address.eq(given_address),
            write_data.as_value().eq(_rotate_left(given, given_address[:given_bits], len(given), 8)),
            write_mask.eq(_rotate_left(list(given_mask), given_address[:low], fetch, 1)),
        ]
        # a run may go on in the next index of the banks before the one it begins in
        read_low, read_index, next_read = _near(m, address, low, index_bits)
        write_low, write_index, next_write = _near(m, write_address, low, index_bits)
        wrong = Signal(fetch)
        written = [delayed(m, byte, 2) for byte in (write_data[i] for i in range(self.write_bytes))]
        for bank in range(fetch):
            width = PARITY_BYTE if self._parity else 8
            memory = Memory(shape=width, depth=self._depth, init=[], attrs=UNORDERED)
            m.submodules[f"bank_{bank}"] = memory
            read_port, write_port = memory.read_port(), memory.write_port()
            data_byte = written[bank % self.write_bytes]
            read_at = Mux(bank < read_low, next_read, read_index)
            write_at = Mux(bank < write_low, next_write, write_index)
            m.d.comb += [
                read_port.addr.eq(delayed(m, read_at, 1)),
                write_port.addr.eq(delayed(m, write_at, 1)),
                write_port.data.eq(stored(data_byte) if self._parity else data_byte),
                write_port.en.eq(delayed(m, write & write_mask[bank] & ~write_past, 2)),
            ]
            if self._parity:
                word = Signal(PARITY_BYTE)
                m.d.sync += word.eq(read_port.data)
                m.d.comb += Cat(raw[bank], wrong[bank]).eq(Cat(checked(word)))
            else:
                m.d.sync += raw[bank].eq(read_port.data)
        m.d.comb += self.o_data.as_value().eq(_rotated_right(m, raw, delayed(m, address[:low], 4)))
        if self._parity:
            matter = ((1 << count) - 1)[:fetch]
            banks = delayed(m, _rotate_left(list(matter), address[:low], fetch, 1), 4)
            m.d.sync += self.o_wrong.eq((wrong & banks).any() & delayed(m, read & ~read_past, 3))
        return m


def _near(m, address, low: int, index_bits: int):
    """Return the first bank of a run, its index and the one after it, a cycle later."""
    index = address[low:]
    return (delayed(m, value, 1) for value in (address[:low], index[:index_bits], (index + 1)[:index_bits]))


def _rotated_right(m, items, turn):
    """Return `items`, bytes, rotated so that the item at index `turn` comes first, a cycle later."""
    count, half = len(items), len(turn) // 2
    current = [items[i] for i in range(count)]
    for level in range(len(turn)):
        if level == half:
            current, turn = [delayed(m, item, 1) for item in current], delayed(m, turn, 1)
        distance = 1 << level
        current = [Mux(turn[level], current[(i + distance) % count], current[i]) for i in range(count)]
    return Cat(*current)


def _rotate_left(items, turn, count: int, width: int):
    """Return `items`, values of `width` bits, zero-extended to `count` and rotated so that the first is at `turn`."""
    current = [*items, *(Const(0, width) for _ in range(count - len(items)))]
    for level in range(len(turn)):
        distance = 1 << level
        current = [Mux(turn[level], current[(i - distance) % count], current[i]) for i in range(count)]
    return Cat(*current)
