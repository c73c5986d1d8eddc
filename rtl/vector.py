"""Vector unit: reductions over activation memory that need no multiplier."""

import itertools

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import isa, pipeline
from hwq.config import ArrayConfig
from rtl.layouts import address_shape, descriptor_layout, param_address_shape
from rtl.pipeline import delayed
from rtl.primitives import MaskedAdder
from rtl.walker import WalkerControl


class Vector(wiring.Component):
    """Reduce the taps of `lanes` channels of a pixel to one 32-bit value each: maximum or sum.

    Groups of `lanes` channels run inside pixels, taps inside groups; with a second operand one more read follows the
    taps. One tap is a copy, a sum over a window average pooling, a copy with equal clamp bounds a fill.

    Latency: a result is on `o_acc` `vector_out` less `joining` cycles after its last tap was read; `o_param` comes
    earlier, as many cycles as from a read of the mesh to its sum.
    Throughput: one read of `lanes` bytes a cycle, so a result every ``taps`` (+ 1 with a second operand) cycles.
    `i_blocked` pushes back.

    Members
    -------
    i_start : begin with `i_descriptor`
    i_clear : stop
    i_blocked : a word waits for activation memory's port: no read but one right behind a tap
    o_running : reads remain
    o_midway : a second operand is read, which must come right behind the last tap
    o_read, o_address, o_count : read request to activation memory and its bytes that matter
    i_data : activation memory's read port
    o_emit, o_param : a result will be on `o_acc`, as many cycles later; its parameter word
    o_valid, o_acc, o_residual : the result and its second operand
    o_write_address, o_write_count, o_final : with `o_valid`, where it goes; it is the layer's last
    ifm, res, ofm : the pixel walkers
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        lanes = config.lanes
        super().__init__(
            {
                "i_start": In(1),
                "i_clear": In(1),
                "i_blocked": In(1),
                "i_descriptor": In(descriptor_layout(config)),
                "o_running": Out(1),
                "o_midway": Out(1),
                "o_read": Out(1),
                "o_address": Out(address_shape(config)),
                "o_count": Out(range(lanes + 1)),
                "i_data": In(data.ArrayLayout(signed(8), lanes)),
                "o_emit": Out(1),
                "o_param": Out(param_address_shape(config)),
                "o_valid": Out(1),
                "o_acc": Out(data.ArrayLayout(signed(32), lanes)),
                "o_residual": Out(data.ArrayLayout(signed(8), lanes)),
                "o_write_address": Out(address_shape(config)),
                "o_write_count": Out(range(lanes + 1)),
                "o_final": Out(1),
                "ifm": Out(WalkerControl(config)),
                "res": Out(WalkerControl(config)),
                "ofm": Out(WalkerControl(config)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config, d = self._config, self.i_descriptor
        lanes = config.lanes

        groups_left, group = Signal.like(d.blocks), Signal.like(d.blocks)
        offset, tap = Signal(address_shape(config)), Signal(address_shape(config))  # in a pixel: the group, its tap
        next_offset = Signal.like(offset)
        taps_x_left, taps_y_left = Signal.like(d.taps_x), Signal.like(d.taps_y)
        first_tap, second_operand, go = Signal(), Signal(), Signal()
        tap_row_end, last_row, taps_end, result_end = Signal(), Signal(), Signal(), Signal()
        pixel_end, last_group, at_end, at_pixel_end = Signal(), Signal(), Signal(), Signal()
        end_after, last_group_after = Signal(), Signal()
        one_group, one_tap = d.blocks == 1, (d.taps_x == 1) & (d.taps_y == 1) & ~d.residual
        m.d.comb += [
            taps_end.eq(tap_row_end & last_row),
            self.o_midway.eq(self.o_running & second_operand),
            go.eq(self.o_running & (self.o_midway | ~self.i_blocked)),
            result_end.eq(go & at_end),
            pixel_end.eq(go & at_pixel_end),
            self.o_read.eq(go),
            next_offset.eq(Mux(last_group, 0, offset + lanes)),
            self.o_address.eq(
                Mux(second_operand, self.res.address, self.ifm.address) + Mux(second_operand, offset, tap)
            ),
            self.o_count.eq(Mux(last_group, d.last_channels, lanes)),
        ]
        for walker, base in ((self.ifm, d.ifm_base), (self.res, d.res_base), (self.ofm, d.ofm_base)):
            m.d.comb += [walker.start.eq(self.i_start), walker.base.eq(base), walker.step.eq(pixel_end)]

        with m.If(go):
            m.d.sync += first_tap.eq(0)
            with m.If(~second_operand):
                row_end_after, last_row_after = Signal(), Signal()
                m.d.comb += [
                    row_end_after.eq(Mux(tap_row_end, d.taps_x == 1, taps_x_left == 2)),
                    last_row_after.eq(Mux(tap_row_end, taps_y_left == 2, last_row)),
                ]
                m.d.comb += end_after.eq(Mux(d.residual, taps_end, row_end_after & last_row_after))
                m.d.sync += [
                    tap.eq(tap + Mux(tap_row_end, d.tap_y_step, d.tap_x_step)),
                    taps_x_left.eq(Mux(tap_row_end, d.taps_x, taps_x_left - 1)),
                    taps_y_left.eq(taps_y_left - tap_row_end),
                    tap_row_end.eq(row_end_after),
                    last_row.eq(last_row_after),
                    at_end.eq(end_after),
                    at_pixel_end.eq(end_after & last_group),
                    second_operand.eq(taps_end & d.residual),
                ]
            with m.If(result_end):
                m.d.comb += last_group_after.eq(Mux(last_group, one_group, groups_left == 2))
                m.d.sync += [
                    first_tap.eq(1),
                    second_operand.eq(0),
                    tap.eq(next_offset),
                    taps_x_left.eq(d.taps_x),
                    taps_y_left.eq(d.taps_y),
                    tap_row_end.eq(d.taps_x == 1),
                    last_row.eq(d.taps_y == 1),
                    at_end.eq(one_tap),
                    at_pixel_end.eq(one_tap & last_group_after),
                    offset.eq(next_offset),
                    group.eq(Mux(last_group, 0, group + 1)),
                    groups_left.eq(Mux(last_group, d.blocks, groups_left - 1)),
                    last_group.eq(last_group_after),
                ]
            with m.If(pixel_end & self.ifm.final):
                m.d.sync += self.o_running.eq(0)

        # a read's role travels beside its data; a result is announced with its last tap
        role = data.StructLayout(
            {
                "tap": 1,
                "first": 1,
                "emit": 1,
                "final": 1,
                "param": param_address_shape(config),
                "address": address_shape(config),
                "count": range(lanes + 1),
            }
        )
        joining = pipeline.joining(config)
        latency = pipeline.vector_out(config) - joining
        stages = [Signal(role, name=f"role_{i}") for i in range(latency + 1)]
        head = stages[0]
        m.d.comb += [
            head.tap.eq(go & ~second_operand),
            head.first.eq(first_tap),
            head.emit.eq(go & ~second_operand & taps_end),
            head.final.eq(last_group & self.ifm.final),
            head.param.eq(d.param_base + Mux(d.param_step, group, 0)),
            head.address.eq(self.ofm.address + offset),
            head.count.eq(self.o_count),
        ]
        for before, after in itertools.pairwise(stages):
            m.d.sync += after.eq(before)
        announced, arriving, leaving = stages[joining - 1 - pipeline.read_out(config)], *stages[-2:]
        on_the_way = latency - pipeline.read_latency(config) - 1
        assert on_the_way >= 1  # the bytes come out of a rotator, late in their cycle
        arrived = self.i_data.shape()(delayed(m, self.i_data, on_the_way, alone=True))
        sums = d.reduce == isa.Reduce.SUM
        totals = delayed(m, sums, 1)  # no result comes with the start
        for lane in range(lanes):
            value, acc = arrived[lane], self.o_acc[lane]
            added = delayed(m, sums & ~stages[-3].first, 1, alone=not config.one_port)  # lanes are far apart
            total = Signal(acc.shape(), name=f"total_{lane}")
            m.submodules[f"adder_{lane}"] = adder = MaskedAdder(len(acc), whole=True)
            m.d.comb += [
                adder.i_a.eq(total),
                adder.i_mask.eq(added),
                adder.i_b.eq(value),
            ]
            # a maximum has the bits of its values: what is compared tells no other register to change
            best = total[: len(value)].as_signed()
            with m.If(arriving.tap & (added | arriving.first | (value > best))):
                m.d.sync += best.eq(adder.o)
            with m.If(arriving.tap):
                m.d.sync += total[len(value) :].eq(adder.o[len(value) :])
            m.d.comb += acc.eq(Mux(totals, total, best))
        m.d.comb += [
            self.o_emit.eq(announced.emit),
            self.o_param.eq(announced.param),
            self.o_valid.eq(leaving.emit),
            self.o_residual.eq(arrived),
            self.o_write_address.eq(leaving.address),
            self.o_write_count.eq(leaving.count),
            self.o_final.eq(leaving.emit & leaving.final),
        ]

        with m.If(self.i_start):
            m.d.sync += [
                self.o_running.eq(1),
                first_tap.eq(1),
                second_operand.eq(0),
                groups_left.eq(d.blocks),
                last_group.eq(one_group),
                group.eq(0),
                offset.eq(0),
                tap.eq(0),
                taps_x_left.eq(d.taps_x),
                taps_y_left.eq(d.taps_y),
                tap_row_end.eq(d.taps_x == 1),
                last_row.eq(d.taps_y == 1),
                at_end.eq(one_tap),
                at_pixel_end.eq(one_tap & one_group),
            ]
        with m.If(self.i_clear):
            m.d.sync += [self.o_running.eq(0), *(stage.emit.eq(0) for stage in stages[1:])]
        return m
