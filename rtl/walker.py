"""Addresses of consecutive pixels, with a return to the first pixel of the tile."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq.config import ArrayConfig
from rtl.layouts import address_shape, step_shape


class WalkerControl(wiring.Signature):
    """What a unit tells a `PixelWalker` and what it gets back.

    Members
    -------
    start : go to the first pixel, at `base`; overrides the others
    step : go to the next pixel
    rewind : go to the tile's first pixel instead
    commit : the pixel stepped to, or stayed at without `step`, is the next tile's first
    address : byte address of the current pixel
    valid : the current pixel exists
    final : no pixel follows the current one
    left, row_left : pixels from the current one to the last, of all, of its row; both ends counted
    """

    def __init__(self, config: ArrayConfig):
        super().__init__(
            {
                "start": Out(1),
                "base": Out(address_shape(config)),
                "step": Out(1),
                "rewind": Out(1),
                "commit": Out(1),
                "address": In(address_shape(config)),
                "valid": In(1),
                "final": In(1),
                "left": In(24),
                "row_left": In(16),
            }
        )


class PixelWalker(wiring.Component):
    """Walk the pixels of a feature map in raster order.

    The address of pixel n+1 is that of pixel n plus `i_x_step`, or plus `i_y_step` after the last pixel of a row.
    Past the last pixel the address stays and `valid` falls. A tile is walked several times: `rewind` returns to its
    first pixel, `commit` makes the pixel stepped to the first one of the next tile.

    Latency: 1, a step taken in one cycle shows in the next. Throughput: one pixel a cycle. Nothing pushes back.

    Members
    -------
    i_x_step, i_y_step : to the next pixel; from a row's last pixel to the next row's first
    i_row_pixels, i_pixels : pixels in a row, in all
    control : the using unit
    """

    def __init__(self, config: ArrayConfig):
        super().__init__(
            {
                "i_x_step": In(step_shape(config)),
                "i_y_step": In(step_shape(config)),
                "i_row_pixels": In(16),
                "i_pixels": In(24),
                "control": In(WalkerControl(config)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        control = self.control
        address, column, left = control.address, control.row_left, control.left
        tile_address, tile_column, tile_left = Signal.like(address), Signal(16), Signal(24)
        next_address, next_column, next_left = Signal.like(address), Signal(16), Signal(24)
        row_end = Signal()
        m.d.comb += [
            control.valid.eq(left != 0),
            control.final.eq(left[1:] == 0),
            row_end.eq(column == 1),
            next_address.eq(address),
            next_column.eq(column),
            next_left.eq(left),
        ]
        with m.If(control.step & control.final):
            m.d.comb += next_left.eq(0)
        with m.Elif(control.step):
            m.d.comb += [
                next_address.eq(address + Mux(row_end, self.i_y_step, self.i_x_step)),
                next_column.eq(Mux(row_end, self.i_row_pixels, column - 1)),
                next_left.eq(left - 1),
            ]
        with m.If(control.start):
            m.d.sync += [
                address.eq(control.base),
                column.eq(self.i_row_pixels),
                left.eq(self.i_pixels),
                tile_address.eq(control.base),
                tile_column.eq(self.i_row_pixels),
                tile_left.eq(self.i_pixels),
            ]
        with m.Else():
            with m.If(control.rewind):
                m.d.sync += [address.eq(tile_address), column.eq(tile_column), left.eq(tile_left)]
            with m.Else():
                m.d.sync += [address.eq(next_address), column.eq(next_column), left.eq(next_left)]
            with m.If(control.commit):
                m.d.sync += [tile_address.eq(next_address), tile_column.eq(next_column), tile_left.eq(next_left)]
        return m
