"""Block scales: sums of a tile's taps, each times a scale, added up on their way to the output path."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq.config import ArrayConfig
from hwq.weights import TAP_BITS
from rtl.pipeline import delayed

WAITING = 16
"""Words of scales between the first step of a tap and the last read of its sums.

A tap's last step comes no earlier than `overwrite_slack`, at least -10, after the first read of the tap's sums before
it, and a read takes a cycle or more, so at most eleven taps are under way.
"""


class BlockScales(wiring.Component):
    """``o = (0 if first else o of the tap before) + scale * i_sum``, wrapping, for each result of the tile.

    The sums have `TAP_BITS` and wrap, the scales 8 bits without sign, the totals 32 bits. Totals lie in a memory of
    their own until the tile's last tap. Scales come a word at a time, in the order of the taps, and wait in a queue.

    Latency: `SCALE_LATENCY` from `i_sum`, which comes a cycle after `i_read`. Throughput: `lanes` results a cycle.
    Backpressure: none; at most `WAITING` words are under way.

    Members
    -------
    i_start : nothing is under way; forget all scales
    i_write, i_word : scales of the next tap, one byte a column
    i_read, i_row, i_columns : a result is being read: its mesh row, its group of `lanes` columns
    i_first : the result is of the tile's first tap
    i_end : it is the tap's last one
    i_sum : for each lane the result, a cycle after `i_read`
    o : for each lane the total
    """

    LATENCY = 3

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(
            {
                "i_start": In(1),
                "i_write": In(1),
                "i_word": In(8 * config.cols),
                "i_read": In(1),
                "i_row": In(range(config.rows)),
                "i_columns": In(range(config.groups)),
                "i_first": In(1),
                "i_end": In(1),
                "i_sum": In(data.ArrayLayout(signed(32), config.lanes)),
                "o": Out(data.ArrayLayout(signed(32), config.lanes)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config = self._config
        lanes = config.lanes

        m.submodules.queue = queue = Memory(shape=8 * config.cols, depth=WAITING, init=[])
        put, get = queue.write_port(), queue.read_port(domain="comb")
        newest, oldest = Signal(range(WAITING)), Signal(range(WAITING))
        m.d.comb += [put.addr.eq(newest), put.data.eq(self.i_word), put.en.eq(self.i_write), get.addr.eq(oldest)]
        m.d.sync += [newest.eq(newest + self.i_write), oldest.eq(oldest + (self.i_read & self.i_end))]
        with m.If(self.i_start):
            m.d.sync += [newest.eq(0), oldest.eq(0)]
        scales = delayed(m, get.data.word_select(self.i_columns, 8 * lanes), 1)

        place = Cat(self.i_row[: ceil_log2(config.rows)], self.i_columns[: ceil_log2(config.groups)])
        m.submodules.totals = totals = Memory(shape=32 * lanes, depth=1 << len(place), init=[])
        read, write = totals.read_port(domain="comb"), totals.write_port()
        address = delayed(m, place, self.LATENCY)
        valid, first = Signal(self.LATENCY), delayed(m, self.i_first, self.LATENCY)
        m.d.sync += valid.eq((valid << 1) | self.i_read)
        m.d.comb += [read.addr.eq(address), write.addr.eq(address), write.en.eq(valid[-1])]
        for lane in range(lanes):
            scale = scales.word_select(lane, 8)
            product = delayed(m, self.i_sum[lane][:TAP_BITS].as_signed() * scale, self.LATENCY - 1)
            total = (Mux(first, 0, read.data.word_select(lane, 32)) + product)[:32]
            m.d.comb += write.data.word_select(lane, 32).eq(total)
            m.d.sync += self.o[lane].eq(total)
        return m
