"""Output path of small arrays: from the mesh's sums to words for activation memory."""

from amaranth import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.layouts import below, descriptor_layout
from rtl.param_ram import ParamRam
from rtl.pipeline import delayed
from rtl.readout import ShiftReadout
from rtl.small_drain import SmallDrain
from rtl.small_requantizer import SmallRequantizer
from rtl.word_writer import WordWriter


class SmallOutput(wiring.Component):
    """`rtl.small_drain` reads sums, `rtl.small_requantizer` makes bytes of them, `rtl.word_writer` words.

    Latency: `read_out` + `hwq.pipeline.SMALL_REQUANTIZE_LATENCY` from a read to its byte. Throughput: a sum a cycle.
    Nothing pushes back.

    Members
    -------
    i_start, i_descriptor : begin; the descriptor doesn't change while a result is on its way
    i_clear : drop all results
    i_shadow, o_shift : as `rtl.readout.ShiftReadout` has them
    o_read : a sum is being read
    o_param_range : one cycle after the read of a channel whose parameters aren't in memory
    drain, params, words : the parts' other ports
    """

    def __init__(self, config: ArrayConfig):
        assert config.small
        self._config = config
        self.drain, self.params, self.words = SmallDrain(config), ParamRam(config), WordWriter(config)
        super().__init__(
            {
                "i_start": In(1),
                "i_clear": In(1),
                "i_descriptor": In(descriptor_layout(config)),
                "i_shadow": In(data.ArrayLayout(signed(config.sum_bits), config.cols)),
                "o_shift": Out(config.cols),
                "o_read": Out(1),
                "o_param_range": Out(1),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        d, drain, params, words = self.i_descriptor, self.drain, self.params, self.words
        m.submodules += [drain, params, words]
        m.submodules.readout = readout = ShiftReadout(self._config)
        m.submodules.requantizer = requantizer = SmallRequantizer()
        assert pipeline.SMALL_REQUANTIZE_LATENCY == requantizer.LATENCY
        for unit in (drain, words):
            m.d.comb += [unit.i_start.eq(self.i_start), unit.i_clear.eq(self.i_clear), unit.i_descriptor.eq(d)]
        valid = Signal(pipeline.read_out(self._config) + requantizer.LATENCY)
        m.d.sync += valid.eq((valid << 1) | drain.o_read)
        with m.If(self.i_clear):
            m.d.sync += valid.eq(0)
        m.d.comb += [
            self.o_read.eq(drain.o_read),
            readout.i_read.eq(drain.o_read),
            readout.i_column.eq(drain.o_column),
            readout.i_shadow.eq(self.i_shadow),
            self.o_shift.eq(readout.o_shift),
            params.i_address.eq(delayed(m, drain.o_param, pipeline.read_out(self._config) - 1)),
            requantizer.i_acc.eq(readout.o[0]),
            requantizer.i_bias.eq(params.o_param.bias),
            requantizer.i_mantissa.eq(params.o_param.mantissa),
            requantizer.i_shift.eq(params.o_param.shift),
            requantizer.i_zero_point.eq(d.zero_point),
            requantizer.i_lo.eq(d.lo),
            requantizer.i_hi.eq(d.hi),
            words.i_write.eq(valid[-1]),
            words.i_data.eq(requantizer.o),
        ]
        past = ~below(drain.o_param, self._config.param_words)
        m.d.sync += self.o_param_range.eq(drain.o_read & drain.o_exists & past)
        return m
