"""Write queue: results wait in words until activation memory's only port is free."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.layouts import address_shape
from rtl.shared_act_ram import WORD_BYTES
from rtl.unordered import UNORDERED


class WriteQueue(wiring.Component):
    """Gather bytes that follow one another into words of up to four, and hold the words.

    A word of several bytes must begin at an even address.

    Latency: `QUEUE_LATENCY` from a word's last byte to `o_valid`. Throughput: a byte in, a word out a cycle.
    Backpressure: none on `i`; `hwq.pipeline.queue_words` says why all words find a place.

    Members
    -------
    i_clear : drop everything
    i_write, i_address, i_data : a byte
    i_end : the word ends with this byte
    i_final : it is the layer's last byte
    o_valid, o_address, o_data, o_mask : the oldest word; the address is even
    o_odd : it has several bytes and was to begin at an odd address
    o_final : it ends its layer
    i_take : take it
    """

    def __init__(self, config: ArrayConfig):
        self._words = pipeline.queue_words(config)
        super().__init__(
            {
                "i_clear": In(1),
                "i_write": In(1),
                "i_address": In(address_shape(config)),
                "i_data": In(8),
                "i_end": In(1),
                "i_final": In(1),
                "o_valid": Out(1),
                "o_address": Out(address_shape(config)),
                "o_data": Out(data.ArrayLayout(8, WORD_BYTES)),
                "o_mask": Out(WORD_BYTES),
                "o_odd": Out(1),
                "o_final": Out(1),
                "i_take": In(1),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        layout = data.StructLayout(
            {"half": len(self.o_address) - 1, "data": 8 * WORD_BYTES, "mask": WORD_BYTES, "odd": 1, "final": 1}
        )
        m.submodules.memory = memory = Memory(shape=layout, depth=self._words, init=[], attrs=UNORDERED)
        write, read = memory.write_port(), memory.read_port()

        lane, held, begun = Signal(range(WORD_BYTES)), Signal(8 * (WORD_BYTES - 1)), Signal.like(self.i_address)
        first = Mux(lane == 0, self.i_address, begun)
        kept = [Mux(lane > i, held.word_select(i, 8), self.i_data) for i in range(WORD_BYTES - 1)]
        single = first[0] & (lane == 0)
        m.d.comb += [
            write.en.eq(self.i_write & self.i_end),
            write.data.half.eq(first[1:]),
            write.data.data.eq(Cat(*kept, self.i_data)),
            write.data.mask.eq(Mux(single, 0b10, Cat(lane >= i for i in range(WORD_BYTES)))),
            write.data.odd.eq(first[0] & (lane != 0)),
            write.data.final.eq(self.i_final),
        ]
        with m.If(self.i_write):
            m.d.sync += [lane.eq(Mux(self.i_end, 0, lane + 1)), held.eq(Cat(*kept)), begun.eq(first)]

        # a word can be read from memory one cycle after it was written there
        bits = ceil_log2(self._words)
        written, taken, following = Signal(bits), Signal(bits), Signal(bits)
        m.d.comb += [
            write.addr.eq(written),
            following.eq(taken + self.i_take),
            read.addr.eq(following),
            self.o_address.eq(read.data.half << 1),
            self.o_data.eq(read.data.data),
            self.o_mask.eq(read.data.mask),
            self.o_odd.eq(read.data.odd),
            self.o_final.eq(read.data.final),
        ]
        m.d.sync += [written.eq(written + write.en), self.o_valid.eq(following != written), taken.eq(following)]
        with m.If(self.i_clear):
            m.d.sync += [lane.eq(0), written.eq(0), taken.eq(0), self.o_valid.eq(0)]
        return m
