"""Output path: from 32-bit sums to bytes on activation memory's write port."""

from amaranth import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.layouts import address_shape, descriptor_layout, param_layout
from rtl.requantize import Requantizer
from rtl.residual_add import ResidualAdd
from rtl.tables import Tables


class Post(wiring.Component):
    """`lanes` requantizers, each followed by an adder for a second operand and a table.

    ``o = clamp(RNE((a * factor_a + b * factor_b + offset) / 2**add_shift))`` with ``a`` the requantized sum and ``b``
    the second operand; without one the descriptor holds factors 1 and 0, offset 0 and shift 0, so there is no bypass.
    `rtl.tables.Tables` then maps ``o``.

    Latency: `POST_LATENCY`. Throughput: `lanes` results a cycle. Nothing pushes back.

    Members
    -------
    i_descriptor : constants of the layer, stable from before the first result to after the last
    i_valid : write the result
    i_acc, i_param, i_residual : one sum, parameter set and second operand for each lane
    i_address, i_count : where the result goes, and how many lanes of it
    i_final : travels along
    i_window_address, i_window_read, i_window_write, i_window_mask, i_window_data, o_window : the bus, onto the tables
    o_write, o_address, o_data, o_count : activation memory's write port
    o_final : the last result is on the write port
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        self._lanes = lanes = config.lanes
        super().__init__(
            {
                "i_descriptor": In(descriptor_layout),
                "i_clear": In(1),
                "i_valid": In(1),
                "i_acc": In(data.ArrayLayout(signed(32), lanes)),
                "i_param": In(data.ArrayLayout(param_layout, lanes)),
                "i_residual": In(data.ArrayLayout(signed(8), lanes)),
                "i_address": In(address_shape),
                "i_count": In(range(lanes + 1)),
                "i_final": In(1),
                "i_window_address": In(22),
                "i_window_read": In(1),
                "i_window_write": In(1),
                "i_window_mask": In(4),
                "i_window_data": In(32),
                "o_window": Out(32),
                "o_write": Out(1),
                "o_address": Out(address_shape),
                "o_data": Out(data.ArrayLayout(8, lanes)),
                "o_count": Out(range(lanes + 1)),
                "o_final": Out(1),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        d, lanes = self.i_descriptor, self._lanes
        m.submodules.tables = tables = Tables(self._config)
        assert tables.LATENCY == pipeline.TABLE_LATENCY, tables.LATENCY
        m.d.comb += [
            tables.i_table.eq(d.table),
            tables.i_window_address.eq(self.i_window_address),
            tables.i_window_read.eq(self.i_window_read),
            tables.i_window_write.eq(self.i_window_write),
            tables.i_window_mask.eq(self.i_window_mask),
            tables.i_window_data.eq(self.i_window_data),
            self.o_window.eq(tables.o_window),
        ]
        residual = self.i_residual.as_value()
        for stage in range(pipeline.REQUANTIZE_LATENCY):
            later = Signal(8 * lanes, name=f"residual_{stage}", reset_less=True)
            m.d.sync += later.eq(residual)
            residual = later
        for lane in range(lanes):
            requantizer, adder = Requantizer(), ResidualAdd()
            assert requantizer.LATENCY == pipeline.REQUANTIZE_LATENCY, requantizer.LATENCY
            assert adder.LATENCY == pipeline.ADD_LATENCY, adder.LATENCY
            m.submodules[f"requantizer_{lane}"] = requantizer
            m.submodules[f"adder_{lane}"] = adder
            m.d.comb += [
                requantizer.i_acc.eq(self.i_acc[lane]),
                requantizer.i_bias.eq(self.i_param[lane].bias),
                requantizer.i_offset_high.eq(self.i_param[lane].offset_high),
                requantizer.i_mantissa.eq(self.i_param[lane].mantissa),
                requantizer.i_shift.eq(self.i_param[lane].shift),
                requantizer.i_zero_point.eq(d.zero_point),
                requantizer.i_lo.eq(d.lo),
                requantizer.i_hi.eq(d.hi),
                requantizer.i_truncate.eq(d.truncate),
                adder.i_a.eq(requantizer.o),
                adder.i_b.eq(residual[8 * lane : 8 * lane + 8].as_signed()),
                adder.i_factor_a.eq(d.factor_a),
                adder.i_factor_b.eq(d.factor_b),
                adder.i_offset.eq((d.offset_high << 32) | d.offset_low),
                adder.i_shift.eq(d.add_shift),
                adder.i_lo.eq(d.add_lo),
                adder.i_hi.eq(d.add_hi),
                tables.i[lane].eq(adder.o),
                self.o_data[lane].eq(tables.o[lane]),
            ]

        tag = data.StructLayout({"address": address_shape, "count": range(lanes + 1)})
        place = Signal(tag)
        m.d.comb += [place.address.eq(self.i_address), place.count.eq(self.i_count)]
        stages = pipeline.POST_LATENCY
        valid, final = Signal(stages), Signal(stages)
        m.d.sync += [valid.eq((valid << 1) | self.i_valid), final.eq((final << 1) | self.i_final)]
        for stage in range(stages):
            later = Signal(tag, name=f"place_{stage}", reset_less=True)
            m.d.sync += later.eq(place)
            place = later
        with m.If(self.i_clear):
            m.d.sync += [valid.eq(0), final.eq(0)]
        m.d.comb += [
            self.o_write.eq(valid[-1]),
            self.o_final.eq(final[-1]),
            self.o_address.eq(place.address),
            self.o_count.eq(place.count),
        ]
        return m
