"""Memory of wide words with a 32-bit window: weights and parameters."""

from amaranth import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.layouts import below
from rtl.parity import PARITY_BYTE, checked, stored
from rtl.pipeline import delayed
from rtl.primitives import SinglePortRam
from rtl.unordered import UNORDERED


class WindowRam(wiring.Component):
    """`depth` words of `word_bytes` bytes; the bus writes and reads 32 bits of a word at a time.

    Word i occupies the window's bytes from ``i * stride`` on, with `stride` the next power of two, at least 4.

    Latency: `latency`, 1 + `spread`, from `i_address` to `o_word`, and `window_latency` from `i_window_address` to
    `o_window`, two cycles more where a word's way is as long as that (`spread` 2 or more).
    Throughput: one read and one window write a cycle. The window shares the read port: while `i_window_read` is set,
    and with `one_port` while `i_window_write` is, `i_address` isn't served.

    Parameters
    ----------
    word_bytes, depth : int
    one_port : bool
        Whether the memory is made of `rtl.primitives.SinglePortRam`; `word_bytes` is even then.
    spread : int
        Registers on the way through blocks that are far apart: 1 behind them, 2 before them too, 3 also behind each
        block, before the word is one memory's of two. With `one_port` 0.
    parity : bool
        Whether the memory keeps a parity bit of every byte; not with `one_port`.

    Members
    -------
    i_address, o_word : the unit's read port
    o_wrong : with `parity`, two cycles after a word that isn't as written; of no word past the end of the window
    i_window_address : 32-bit word of the window
    i_window_read, i_window_write, i_window_mask, i_window_data, o_window : the bus
    """

    def __init__(self, *, word_bytes: int, depth: int, one_port: bool = False, spread: int = 0, parity: bool = False):
        assert not (one_port and (parity or spread))
        self._word_bytes, self._depth, self._one_port = word_bytes, depth, one_port
        self._spread, self._parity = spread, parity
        self.latency = 1 + spread
        self._after = int(spread > 1)
        self.window_latency = self.latency + 2 * self._after
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
            | ({"o_wrong": Out(1)} if parity else {})
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        low = ceil_log2(self._words)
        part, index = self.i_window_address[:low], self.i_window_address[low:]
        part_read, parts = delayed(m, part, self.latency), []
        data, enable = Signal(8 * self._word_bytes), Signal(self._word_bytes)
        if self._one_port:
            self._place_shared(m, index, data, enable)
        else:
            self._place_dual(m, index, data, enable)
        for word in range(self._words):
            start = 4 * word
            if start >= self._word_bytes:
                continue
            count = min(4, self._word_bytes - start)
            bits = slice(8 * start, 8 * (start + count))
            m.d.comb += data[bits].eq(self.i_window_data)
            with m.If(self.i_window_write & (part == word if low else 1) & below(index, self._depth)):
                m.d.comb += enable[start : start + count].eq(self.i_window_mask)
            parts.append(self.o_word[bits])
        after = self._after
        half = low // 2 if after else low  # bits of a part's number that choose one in the first of two cycles
        firsts = [
            _chosen(parts[first : first + (1 << half)], part_read[:half]) for first in range(0, len(parts), 1 << half)
        ]
        firsts = [delayed(m, first, after) for first in firsts]
        m.d.comb += self.o_window.eq(delayed(m, _chosen(firsts, delayed(m, part_read[half:], after)), after))
        return m

    def _place_shared(self, m: Module, index: Value, data: Signal, enable: Signal) -> None:
        """Add memory that reads or writes: at word `index` for the window, whose bytes `enable` of `data` it takes."""
        windowed = self.i_window_read | self.i_window_write
        for start in range(0, self._word_bytes, 2):
            m.submodules[f"memory_{start}"] = memory = SinglePortRam(self._depth)
            bits = slice(8 * start, 8 * (start + 2))
            m.d.comb += [
                memory.i_address.eq(Mux(windowed, index, self.i_address)),
                memory.i_write.eq(enable.any()),
                memory.i_mask.eq(enable[start : start + 2]),
                memory.i_data.eq(data[bits]),
                self.o_word[bits].eq(memory.o_data),
            ]

    def _place_dual(self, m: Module, index: Value, data: Signal, enable: Signal) -> None:
        """Add memory that reads and writes at once; the rest as `_place_shared`."""
        address = Signal(self._index_bits)
        m.d.comb += address.eq(Mux(self.i_window_read, index, self.i_address))
        behind, before, between = (int(self._spread >= count) for count in (1, 2, 3))
        # block RAM is as deep as a power of two: what exceeds one has a memory of its own
        base = 1 << (self._depth.bit_length() - 1)
        rest = self._depth - base
        there = ~self.i_window_read | below(index, self._depth)
        enables = [enable & chosen.replicate(self._word_bytes) for chosen in (index < base, index >= base)]
        address, index, data, *enables = (delayed(m, value, before) for value in (address, index, data, *enables))
        words, lane_bits = [], PARITY_BYTE if self._parity else 8
        for depth, upper in ((base, 0), (rest, 1))[: 2 if rest else 1]:
            memory = Memory(shape=lane_bits * self._word_bytes, depth=depth, init=[], attrs=UNORDERED)
            m.submodules["upper" if upper else "memory"] = memory
            read_port, write_port = memory.read_port(), memory.write_port(granularity=lane_bits)
            bits = max(1, ceil_log2(depth))
            m.d.comb += [
                read_port.addr.eq(address[:bits]),
                write_port.addr.eq(index[:bits]),
                write_port.data.eq(stored(data) if self._parity else data),
                write_port.en.eq(enables[upper]),
            ]
            words.append(delayed(m, read_port.data, between))
        word = words[0]
        if rest:
            # of which memory it is; where the bytes of a word lie far apart, each has that in a register of its own
            upper_read, copies = delayed(m, address >= base, between), self._word_bytes if between else 1
            width = len(word) // copies
            choices = [delayed(m, upper_read, 1, alone=copies > 1) for _ in range(copies)]
            pairs = ([half[width * copy :][:width] for half in words] for copy in range(copies))
            word = Cat(Mux(choice, upper, lower) for choice, (lower, upper) in zip(choices, pairs, strict=True))
        if self._parity:
            data, wrong = checked(delayed(m, word, behind))
            m.d.comb += self.o_word.eq(data)
            m.d.sync += self.o_wrong.eq(delayed(m, wrong, 1).any() & delayed(m, there, self.latency + 1))
        else:
            m.d.comb += self.o_word.eq(delayed(m, word, behind))


def _chosen(values: list[Value], index: Value) -> Value:
    """Return one of `values`."""
    return Array(values)[index] if len(values) > 1 else values[0]
