"""Output path: from 32-bit sums to bytes on activation memory's write port."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.layouts import address_shape, descriptor_layout, param_layout
from rtl.pipeline import delayed, recalled
from rtl.product import Product
from rtl.requantize import Requantizer
from rtl.residual_add import ResidualAdd
from rtl.tables import Tables


class Post(wiring.Component):
    """`lanes` requantizers, each followed by an adder for a second operand and a table.

    ``o = clamp(RNE((a * factor_a + b * factor_b + offset) / 2**add_shift))`` with ``a`` the requantized sum and ``b``
    the second operand, or its product with the unrequantized sum (`rtl.product`); without a second operand, and on an
    architecture without an adder, ``o`` is ``a``. Two lanes share an adder, so sums come every second cycle, as do the
    results of a layer with second operands: an odd lane's is added a cycle after the even one's, which waits for it.
    `rtl.tables.Tables` then maps ``o``. Results of 4 bits are written two a byte, the even lane's in the low half; the
    half of a lane that isn't written is 0.

    Latency: `hwq.pipeline.post_latency`. Throughput: `lanes` results a cycle, with second operands every
    `hwq.pipeline.read_interval` cycles. Nothing pushes back.

    Members
    -------
    i_descriptor, i_start : constants of a layer, from `i_start` on, which comes one cycle or more after the result
        before and two cycles or more before the layer's first, and at least `descriptor_load` - `read_out` + 1 before
        they change
    i_valid : write the result
    i_acc, i_param, i_residual : one sum, parameter set and second operand for each lane
    i_address, i_count : where the result goes, and how many lanes of it
    i_end, i_final : travel along
    i_window_address, i_window_read, i_window_write, i_window_mask, i_window_data, o_window : the bus, onto the tables
    o_write, o_address, o_data, o_count : activation memory's write port, in bytes
    o_end, o_final : `i_end` of the result on the write port; it is the last
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        self._lanes = lanes = config.lanes
        super().__init__(
            {
                "i_descriptor": In(descriptor_layout(config)),
                "i_start": In(1),
                "i_clear": In(1),
                "i_valid": In(1),
                "i_acc": In(data.ArrayLayout(signed(32), lanes)),
                "i_param": In(data.ArrayLayout(param_layout, lanes)),
                "i_residual": In(data.ArrayLayout(signed(8), lanes)),
                "i_address": In(address_shape(config)),
                "i_count": In(range(lanes + 1)),
                "i_end": In(1),
                "i_final": In(1),
                "i_window_address": In(22),
                "i_window_read": In(1),
                "i_window_write": In(1),
                "i_window_mask": In(4),
                "i_window_data": In(32),
                "o_window": Out(32),
                "o_write": Out(1),
                "o_address": Out(address_shape(config)),
                "o_data": Out(data.ArrayLayout(8, lanes)),
                "o_count": Out(range(lanes + 1)),
                "o_end": Out(1),
                "o_final": Out(1),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        lanes, config = self._lanes, self._config
        requantized = pipeline.REQUANTIZE_LATENCY
        latency = pipeline.post_latency(config, config.adder)
        m.submodules.tables = tables = Tables(config)
        table = Signal.like(tables.i_table)
        assert tables.LATENCY == pipeline.TABLE_LATENCY, tables.LATENCY
        m.d.comb += [
            tables.i_table.eq(table),
            tables.i_window_address.eq(self.i_window_address),
            tables.i_window_read.eq(self.i_window_read),
            tables.i_window_write.eq(self.i_window_write),
            tables.i_window_mask.eq(self.i_window_mask),
            tables.i_window_data.eq(self.i_window_data),
            self.o_window.eq(tables.o_window),
        ]
        d, longest = self.i_descriptor, pipeline.descriptor_load(config) - pipeline.read_out(config) - 1
        started = Signal(latency)
        m.d.sync += started.eq((started << 1) | self.i_start)

        def constant(field, stage: int):
            """Return what `field` is for the results that entered `stage` cycles ago."""
            if not config.overlaps:
                return field
            if stage > longest:  # the descriptor may be the next layer's by then
                field = constant(field, longest)
            held = Signal(field.shape(), reset_less=True)
            with m.If(started[stage]):
                m.d.sync += held.eq(field)
            return held

        truncate = constant(d.truncate, 0)
        bytewise, byte = (constant(d[name], 0) if config.sum_bytes else 0 for name in ("bytewise", "byte"))
        zero_point, lo, hi = (constant(field, requantized - 3) for field in (d.zero_point, d.lo, d.hi))
        m.d.comb += table.eq(constant(d.table, requantized))
        results = []
        for lane in range(lanes):
            m.submodules[f"requantizer_{lane}"] = requantizer = Requantizer()
            assert requantizer.LATENCY == pipeline.REQUANTIZE_LATENCY, requantizer.LATENCY
            m.d.comb += [
                requantizer.i_acc.eq(self.i_acc[lane]),
                requantizer.i_bias.eq(self.i_param[lane].bias),
                requantizer.i_offset_high.eq(self.i_param[lane].offset_high),
                requantizer.i_mantissa.eq(self.i_param[lane].mantissa),
                requantizer.i_shift.eq(self.i_param[lane].shift),
                requantizer.i_truncate.eq(truncate),
                requantizer.i_bytewise.eq(bytewise),
                requantizer.i_byte.eq(byte),
                requantizer.i_zero_point.eq(zero_point),
                requantizer.i_lo.eq(lo),
                requantizer.i_hi.eq(hi),
                self.o_data[lane].eq(tables.o[lane]),
            ]
            results.append(requantizer.o)
        tag = data.StructLayout({"address": address_shape(config), "count": range(lanes + 1), "end": 1})

        def later(result, cycles: int):
            """Return `result`, its valid and final bits and its place, as it was `cycles` ago."""
            for _ in range(cycles):
                flags, place = Signal(2, name="flags"), Signal(tag, name="place", reset_less=True)
                m.d.sync += [flags.eq(result[0]), place.eq(result[1])]
                with m.If(self.i_clear):
                    m.d.sync += flags.eq(0)
                result = flags, place
            return result

        place = Signal(tag)
        m.d.comb += [place.address.eq(self.i_address), place.count.eq(self.i_count), place.end.eq(self.i_end)]
        flags = Cat(self.i_valid, self.i_final)
        if config.adder:
            flags, place = later((flags, place), requantized)
            adds, chosen = constant(d.residual, requantized - 1), Signal(tag)
            sums = self._added(m, constant, results, flags[0])
            added_flags, added_place = later((flags & adds.replicate(2), place), pipeline.ADD_LATENCY)
            m.d.comb += chosen.eq(Mux(adds, added_place, place))
            flags, place = later((Mux(adds, added_flags, flags), chosen), pipeline.TABLE_LATENCY)
            results = [Mux(adds, *pair) for pair in zip(sums, results, strict=True)]
        else:
            far = place
            flags, place = later((flags, place), latency)
            if config.one_port:  # with block RAM to spare and one result a cycle, registers are dearer
                place = tag(recalled(m, far.as_value(), latency))
        m.d.comb += [tables.i[lane].eq(result) for lane, result in enumerate(results)]
        m.d.comb += [
            Cat(self.o_write, self.o_final).eq(flags),
            self.o_address.eq(place.address),
            self.o_count.eq(place.count),
            self.o_end.eq(place.end),
        ]
        if self._config.act_int4:
            with m.If(constant(d.ofm_int4, requantized + pipeline.TABLE_LATENCY - 1)):
                m.d.comb += self.o_count.eq((place.count + 1) >> 1)
                for byte in range(lanes // 2):
                    low, high = (tables.o[2 * byte + half][:4] for half in (0, 1))
                    exists = place.count > 2 * byte + 1
                    m.d.comb += self.o_data[byte].eq(Cat(low, high & exists.replicate(4)))
        return m

    def _added(self, m, constant, results, valid):
        """Return the sums of `results`, one a lane, and the second operands; `constant` is that of `elaborate`.

        `valid` comes with the results.
        """
        d, sums = self.i_descriptor, []
        requantized = pipeline.REQUANTIZE_LATENCY
        added = requantized + pipeline.ADD_LATENCY - 1
        factor_a, factor_b = (constant(field, requantized + 1) for field in (d.factor_a, d.factor_b))
        offset = constant(Cat(d.offset_low, d.offset_high).as_signed(), requantized + 5)
        add_shift = constant(d.add_shift, requantized + 8)
        add_lo, add_hi = (constant(field, added - 1) for field in (d.add_lo, d.add_hi))
        product_constants = tuple(constant(field, 0) for field in (d.product, d.ifm_zero_point, d.res_zero_point))

        def in_turn(values, first):
            """Return the first value in the cycle of `first`, the second one in the next."""
            return values[0] if len(values) == 1 else Mux(delayed(m, first, 1), delayed(m, values[1], 1), values[0])

        for lane in range(0, self._lanes, 2):
            lanes = range(self._lanes)[lane : lane + 2]
            m.submodules[f"product_{lane}"] = product = Product()
            m.submodules[f"adder_{lane}"] = adder = ResidualAdd()
            assert 2 + adder.LATENCY == pipeline.ADD_LATENCY, adder.LATENCY
            m.d.comb += [
                Cat(product.i_product, product.i_a_zero, product.i_b_zero).eq(Cat(product_constants)),
                product.i_a.eq(in_turn([self.i_acc[n][:8] for n in lanes], self.i_valid)),
                product.i_b.eq(in_turn([self.i_residual[n] for n in lanes], self.i_valid)),
                adder.i_a.eq(delayed(m, in_turn([results[n] for n in lanes], valid), 1)),
                adder.i_b.eq(delayed(m, product.o, requantized + 1 - product.LATENCY)),
                adder.i_factor_a.eq(factor_a),
                adder.i_factor_b.eq(factor_b),
                adder.i_offset.eq(offset),
                adder.i_shift.eq(add_shift),
                adder.i_lo.eq(add_lo),
                adder.i_hi.eq(add_hi),
            ]
            first = delayed(m, adder.o, 1)
            sums += [first, adder.o][: len(lanes)]
        return sums
