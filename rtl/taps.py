"""Offsets of a kernel's taps, inner taps first."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq.config import ArrayConfig
from rtl.layouts import address_shape, field_width, step_shape


class TapControl(wiring.Signature):
    """What a unit tells a `TapWalker` and what it gets back.

    Members
    -------
    start : begin; overrides `step`
    step : go to the next tap, after the last one to the first
    offset : of the current tap from the first [byte]
    following : of the next one
    inner : number of the current tap in its row
    row_end, end : it is its row's last, the kernel's last
    """

    def __init__(self, config: ArrayConfig):
        super().__init__(
            {
                "start": Out(1),
                "step": Out(1),
                "offset": In(address_shape(config)),
                "following": In(address_shape(config)),
                "inner": In(field_width(config, "taps_x")),
                "row_end": In(1),
                "end": In(1),
            }
        )


class TapWalker(wiring.Component):
    """Walk a kernel's taps: `i_taps_x` in each of `i_taps_y` rows.

    Latency: 1, a step taken in one cycle shows in the next. Throughput: one tap a cycle. Nothing pushes back.

    Members
    -------
    i_x_step, i_y_step : to the next tap of a row; from a row's last tap to the next row's first
    i_taps_x, i_taps_y : taps in a row, rows
    control : the using unit
    """

    def __init__(self, config: ArrayConfig):
        super().__init__(
            {
                "i_x_step": In(step_shape(config)),
                "i_y_step": In(step_shape(config)),
                "i_taps_x": In(field_width(config, "taps_x")),
                "i_taps_y": In(field_width(config, "taps_y")),
                "control": In(TapControl(config)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        control = self.control
        after, rows_left = Signal.like(control.inner), Signal.like(self.i_taps_y)
        last_row = Signal()
        # one tap, one row: of counts that aren't 0, and no comparison that synthesis would join to another
        single, flat = (~count[1:].any() for count in (self.i_taps_x, self.i_taps_y))
        second_last, next_in_row, next_row = Signal(), Signal.like(control.offset), Signal.like(control.offset)
        row_end_after, last_row_after = Signal(), Signal()
        offset_after = Mux(control.end, 0, control.following)
        m.d.comb += [
            after.eq(control.inner + 1),
            control.following.eq(Mux(control.row_end, next_row, next_in_row)),
            row_end_after.eq(Mux(control.row_end, single, second_last)),
            last_row_after.eq(Mux(control.row_end, Mux(last_row, flat, rows_left == 2), last_row)),
        ]
        with m.If(control.step):
            m.d.sync += [
                control.offset.eq(offset_after),
                next_in_row.eq(offset_after + self.i_x_step),
                next_row.eq(offset_after + self.i_y_step),
                second_last.eq(Mux(control.row_end, self.i_taps_x == 2, control.inner + 3 == self.i_taps_x)),
                control.inner.eq(Mux(control.row_end, 0, after)),
                rows_left.eq(Mux(control.end, self.i_taps_y, rows_left - control.row_end)),
                control.row_end.eq(row_end_after),
                last_row.eq(last_row_after),
                control.end.eq(row_end_after & last_row_after),
            ]
        with m.If(control.start):
            m.d.sync += [control.offset.eq(0), control.inner.eq(0), rows_left.eq(self.i_taps_y)]
            m.d.sync += [next_in_row.eq(self.i_x_step), next_row.eq(self.i_y_step), second_last.eq(self.i_taps_x == 2)]
            m.d.sync += [control.row_end.eq(single), last_row.eq(flat), control.end.eq(single & flat)]
        return m
