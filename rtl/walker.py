"""Addresses of consecutive pixels, with a return to the first pixel of the tile."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq.config import ArrayConfig
from rtl.layouts import address_shape, descriptor_layout, step_shape


class WalkerControl(wiring.Signature):
    """What a unit tells a `PixelWalker` and what it gets back.

    Members
    -------
    start : go to the first pixel, at `base`; overrides the others
    step : go to the next pixel
    rewind : go to the tile's first pixel instead
    commit : the pixel stepped to, or stayed at without `step`, is the next tile's first; never with `rewind`
    address : byte address of the current pixel
    final : no pixel follows the current one
    near, row_near : pixels from the current one to the last of all, of its row, but at most the mesh's rows
    more : there are more than the mesh's rows
    tile_final : a tile of one row of the map, from the current pixel on, ends with the last of all
    row_final : the current pixel is its row's last
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
                "final": In(1),
                "near": In(range(config.rows + 1)),
                "row_near": In(range(config.rows + 1)),
                "more": In(1),
                "tile_final": In(1),
                "row_final": In(1),
            }
        )


class PixelWalker(wiring.Component):
    """Walk the pixels of a feature map in raster order.

    The address of pixel n+1 is that of pixel n plus `i_x_step`, or plus `i_y_step` after the last pixel of a row.
    It stays at the last pixel. A tile is walked several times: `rewind` returns to its first pixel, `commit` makes the
    pixel stepped to the first one of the next tile.

    Latency: 1, a step taken in one cycle shows in the next. Throughput: one pixel a cycle. Nothing pushes back.

    Members
    -------
    i_x_step, i_y_step : to the next pixel; from a row's last pixel to the next row's first
    i_row_pixels, i_pixels : pixels in a row, in all, less `tile_excess`
    control : the using unit
    """

    def __init__(self, config: ArrayConfig):
        self._rows = config.rows
        super().__init__(
            {
                "i_x_step": In(step_shape(config)),
                "i_y_step": In(step_shape(config)),
                "i_row_pixels": In(descriptor_layout(config)["row_pixels"].shape),
                "i_pixels": In(descriptor_layout(config)["pixels"].shape),
                "control": In(WalkerControl(config)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        control = self.control
        row_left, left = Signal.like(self.i_row_pixels), Signal.like(self.i_pixels)  # the current one counted
        here = (control.address, row_left, left)
        tile = tuple(Signal.like(value, name=f"tile_{value.name}") for value in here)
        fresh = Signal()
        low = ceil_log2(self._rows)
        m.d.comb += [
            Cat(control.row_near, control.row_final).eq(self._near(row_left)),
            Cat(control.near, control.final).eq(self._near(left)),
            control.more.eq(left >= 0),
            control.tile_final.eq((left < 0) & ((row_left >= 0) | (left[:low] <= row_left[:low]))),
        ]
        # the tile's first pixel is noted in its first cycle, from which nothing has stepped yet
        m.d.sync += fresh.eq(control.start | control.commit)
        with m.If(fresh):
            m.d.sync += [first.eq(value) for first, value in zip(tile, here, strict=True)]
        with m.If(control.start):
            begin = (control.base, self.i_row_pixels, self.i_pixels)
            m.d.sync += [value.eq(start) for value, start in zip(here, begin, strict=True)]
        with m.Elif(control.rewind & ~fresh):
            m.d.sync += [value.eq(first) for value, first in zip(here, tile, strict=True)]
        with m.Elif(control.step & ~control.rewind & ~control.final):
            m.d.sync += [
                control.address.eq(control.address + Mux(control.row_final, self.i_y_step, self.i_x_step)),
                row_left.eq(Mux(control.row_final, self.i_row_pixels, row_left - 1)),
                left.eq(left - 1),
            ]
        return m

    def _near(self, left):
        """Return of pixels less `tile_excess` how many there are, at most a tile's, and whether there is one."""
        low = ceil_log2(self._rows)
        fits, part = left < 0, left[:low]
        near = Mux(fits, part + (self._rows + 1 - (1 << low)), self._rows)
        return Cat(near[: self._rows.bit_length()], fits & (part == (1 << low) - self._rows))
