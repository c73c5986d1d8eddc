"""Parameter memory of small arrays: the multiplier of a channel is read later than its bias."""

from amaranth import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import isa
from hwq.config import ArrayConfig
from rtl.layouts import param_layout
from rtl.pipeline import delayed, recalled
from rtl.small_requantizer import SmallRequantizer
from rtl.window_ram import WindowRam


class ParamRam(wiring.Component):
    """`rtl.window_ram.WindowRam` of the parameters of one lane, a memory for each of their two words.

    Latency: 1 from `i_address` to the bias, `SmallRequantizer.LATE` more to the rest: it costs less to keep an address
    than what it leads to. Throughput: a channel a cycle. Nothing pushes back.

    Members
    -------
    i_address, o_param : the unit's read port
    i_window_address, i_window_read, i_window_write, i_window_mask, i_window_data, o_window : as `WindowRam` has them
    """

    def __init__(self, config: ArrayConfig):
        assert config.lanes == 1
        self._depth = config.param_words
        super().__init__(
            {
                "i_address": In(ceil_log2(config.param_words)),
                "o_param": Out(param_layout),
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
        part, words = self.i_window_address[0], []
        for index, address in enumerate((self.i_address, recalled(m, self.i_address, SmallRequantizer.LATE))):
            m.submodules[f"word_{index}"] = memory = WindowRam(word_bytes=4, depth=self._depth)
            m.d.comb += [
                memory.i_address.eq(address),
                memory.i_window_address.eq(self.i_window_address[1:]),
                memory.i_window_read.eq(self.i_window_read),
                memory.i_window_write.eq(self.i_window_write & (part == index)),
                memory.i_window_mask.eq(self.i_window_mask),
                memory.i_window_data.eq(self.i_window_data),
            ]
            words.append(memory.o_word)
        with m.If(delayed(m, part, 1)):
            m.d.comb += self.o_window.eq(words[1])
        with m.Else():
            m.d.comb += self.o_window.eq(words[0])
        both = Cat(words)
        for field in isa.PARAM:
            start = 32 * field.word + field.lsb
            m.d.comb += self.o_param[field.name].eq(both[start : start + field.width])
        return m
