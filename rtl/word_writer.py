"""Word writer: the results of small arrays wait in words until activation memory's only port is free."""

from amaranth import C, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.layouts import BaseControl, address_shape, descriptor_layout
from rtl.shared_act_ram import WORD_BYTES
from rtl.unordered import UNORDERED
from rtl.walker import WalkerControl


class WordWriter(wiring.Component):
    """Hold a word for each pixel of a block, and give it its address when it is taken.

    `cols` bytes make a word, those of channels that don't exist included, which aren't written. A word of several bytes
    must begin at an even address.

    Latency: `QUEUE_LATENCY` from a word's last byte to `o_valid`. Throughput: a byte in, a word out a cycle.
    Backpressure: none on `i`; `hwq.pipeline.queue_words` says why all words find a place.

    Members
    -------
    i_start : begin with `i_descriptor`; nothing is waiting
    i_clear : drop everything
    i_write, i_data : a byte
    o_valid, o_address, o_data, o_mask : the oldest word; the address is even
    o_odd : it has several bytes and was to begin at an odd address
    o_final : it is the layer's last
    i_take : take it
    ofm_base, ofm : the descriptor's; the output's pixel walker
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(
            {
                "i_start": In(1),
                "i_clear": In(1),
                "i_descriptor": In(descriptor_layout(config)),
                "i_write": In(1),
                "i_data": In(8),
                "o_valid": Out(1),
                "o_address": Out(address_shape(config)),
                "o_data": Out(data.ArrayLayout(8, WORD_BYTES)),
                "o_mask": Out(WORD_BYTES),
                "o_odd": Out(1),
                "o_final": Out(1),
                "i_take": In(1),
                "ofm_base": Out(BaseControl(address_shape(config))),
                "ofm": Out(WalkerControl(config)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config, d, cols = self._config, self.i_descriptor, self._config.cols
        words = pipeline.queue_words(config)
        m.submodules.memory = memory = Memory(shape=8 * cols, depth=words, init=[], attrs=UNORDERED)
        write, read = memory.write_port(granularity=8), memory.read_port()

        lane, bits = Signal(range(cols)), ceil_log2(words)
        # a word can be read from memory one cycle after it was written there
        written, taken, following = Signal(bits), Signal(bits), Signal(bits)
        m.d.comb += [
            write.en.eq(self.i_write << lane),
            write.addr.eq(written),
            write.data.eq(self.i_data.replicate(cols)),
            following.eq(taken + self.i_take),
            read.addr.eq(following),
        ]
        m.d.sync += [self.o_valid.eq(following != written), taken.eq(following), lane.eq(lane + self.i_write)]
        with m.If(self.i_write & (lane == cols - 1)):
            m.d.sync += written.eq(written + 1)
        with m.If(self.i_clear):
            m.d.sync += [lane.eq(0), written.eq(0), taken.eq(0), self.o_valid.eq(0)]

        blocks_left, last_block, map_end = Signal.like(d.blocks), Signal(), Signal()
        odd, several = self.ofm.address[0], Signal()
        exists = Cat(~last_block | (d.last_channels > channel) for channel in range(cols))
        first, rest = read.data[:8], read.data[8:]
        m.d.comb += [
            last_block.eq(blocks_left == 1),
            several.eq(exists[1]),
            map_end.eq(self.i_take & self.ofm.final),
            self.o_address.eq(Cat(C(0, 1), self.ofm.address[1:])),
            self.o_data.as_value().eq(Cat(first, Mux(odd, first, rest[:8]), rest[8:])),
            self.o_mask.eq(Mux(odd, 0b10, exists)),
            self.o_odd.eq(odd & several),
            self.o_final.eq(self.ofm.final & last_block),
            self.ofm.start.eq(self.i_start | map_end),
            self.ofm.step.eq(self.i_take),
            self.ofm.base.eq(d.ofm_base + Mux(self.i_start, 0, cols)),
            self.ofm_base.move.eq(map_end),
            self.ofm_base.base.eq(self.ofm.base),
        ]
        with m.If(self.i_start):
            m.d.sync += blocks_left.eq(d.blocks)
        with m.Elif(map_end):
            m.d.sync += blocks_left.eq(blocks_left - 1)
        return m
