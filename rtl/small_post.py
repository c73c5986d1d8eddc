"""Output path of small arrays: from a sum to a byte on activation memory's write port."""

from amaranth import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.layouts import address_shape, descriptor_layout, param_layout
from rtl.pipeline import recalled
from rtl.small_requantizer import SmallRequantizer


class SmallPost(wiring.Component):
    """A requantizer, and what travels beside it: `rtl.post.Post` of one lane without adder, tables and truncation.

    Latency: `hwq.pipeline.SMALL_REQUANTIZE_LATENCY`. Throughput: a result a cycle. Nothing pushes back.

    Members
    -------
    i_descriptor : the constants of the layer; they don't change while a result is on its way
    i_clear : drop all results
    i_valid : write the result
    i_acc : the sum
    i_param : its parameters, but for the bias `SmallRequantizer.LATE` cycles later
    i_address, i_end, i_final : travel along
    o_write, o_address, o_data, o_end, o_final : the write port
    """

    def __init__(self, config: ArrayConfig):
        assert config.small
        self._config = config
        super().__init__(
            {
                "i_descriptor": In(descriptor_layout(config)),
                "i_clear": In(1),
                "i_valid": In(1),
                "i_acc": In(signed(config.sum_bits)),
                "i_param": In(param_layout),
                "i_address": In(address_shape(config)),
                "i_end": In(1),
                "i_final": In(1),
                "o_write": Out(1),
                "o_address": Out(address_shape(config)),
                "o_data": Out(8),
                "o_end": Out(1),
                "o_final": Out(1),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        d, latency = self.i_descriptor, pipeline.SMALL_REQUANTIZE_LATENCY
        m.submodules.requantizer = requantizer = SmallRequantizer()
        assert latency == requantizer.LATENCY
        m.d.comb += [
            requantizer.i_acc.eq(self.i_acc),
            requantizer.i_bias.eq(self.i_param.bias),
            requantizer.i_mantissa.eq(self.i_param.mantissa),
            requantizer.i_shift.eq(self.i_param.shift),
            requantizer.i_zero_point.eq(d.zero_point),
            requantizer.i_lo.eq(d.lo),
            requantizer.i_hi.eq(d.hi),
            self.o_data.eq(requantizer.o),
        ]
        valid, final = Signal(latency), Signal(latency)
        m.d.sync += [valid.eq((valid << 1) | self.i_valid), final.eq((final << 1) | self.i_final)]
        with m.If(self.i_clear):
            m.d.sync += [valid.eq(0), final.eq(0)]
        layout = data.StructLayout({"address": address_shape(self._config), "end": 1})
        place = Signal(layout)
        m.d.comb += [place.address.eq(self.i_address), place.end.eq(self.i_end)]
        far = layout(recalled(m, place.as_value(), latency))
        m.d.comb += [
            self.o_write.eq(valid[-1]),
            self.o_final.eq(final[-1]),
            self.o_address.eq(far.address),
            self.o_end.eq(far.end),
        ]
        return m
