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
    row_final, alone : the current pixel is its row's last; that or the last of all
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
                "alone": In(1),
            }
        )


class PixelWalker(wiring.Component):
    """Walk the pixels of a feature map in raster order.

    The address of pixel n+1 is that of pixel n plus `i_x_step`, or plus `i_y_step` after the last pixel of a row.
    It stays at the last pixel. A tile is walked several times: `rewind` returns to its first pixel, `commit` makes the
    pixel stepped to the first one of the next tile. Where activation memory has two ports, what is told of a
    pixel comes from registers of its own; with one port it is decoded from the counts, in fewer cells.

    Latency: 1, a step taken in one cycle shows in the next. Throughput: one pixel a cycle. Nothing pushes back.

    Members
    -------
    i_x_step, i_y_step : to the next pixel; from a row's last pixel to the next row's first
    i_row_pixels, i_pixels : pixels in a row, in all, less `tile_excess`
    control : the using unit
    """

    def __init__(self, config: ArrayConfig):
        self._rows, self._ahead = config.rows, not config.one_port
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
        told = ("row_near", "row_final", "near", "final", "more", "tile_final", "alone")
        told = Cat(getattr(control, name) for name in told)

        def pixel(address, row_left, left):
            """Return all that registers have of a pixel."""
            return address, row_left, left, *([self._told(row_left, left)] if self._ahead else [])

        here = (control.address, row_left, left, *([told] if self._ahead else []))
        if not self._ahead:
            m.d.comb += told.eq(self._told(row_left, left))
        first = tuple(Signal(value.shape(), name=f"first_{index}") for index, value in enumerate(here))  # of the tile
        begin = pixel(control.base, self.i_row_pixels, self.i_pixels)
        row_after, left_after = Signal.like(row_left), Signal.like(left)
        m.d.comb += [
            row_after.eq(Mux(control.row_final, self.i_row_pixels, row_left - 1)),
            left_after.eq(left - 1),
        ]
        address_after = control.address + Mux(control.row_final, self.i_y_step, self.i_x_step)
        following = pixel(address_after, row_after, left_after)

        def go_to(values):
            """Let the current pixel be another one."""
            m.d.sync += [register.eq(value) for register, value in zip(here, values, strict=True)]

        fresh = Signal()
        # the tile's first pixel is noted in its first cycle, from which nothing has stepped yet
        m.d.sync += fresh.eq(control.start | control.commit)
        with m.If(fresh):
            m.d.sync += [register.eq(value) for register, value in zip(first, here, strict=True)]
        with m.If(control.start):
            go_to(begin)
        with m.Elif(control.rewind & ~fresh):
            go_to(first)
        with m.Elif(control.step & ~control.rewind & ~control.final):
            go_to(following)
        return m

    def _told(self, row_left, left):
        """Return what `control` tells of a pixel with so many left in its row and in all, from `row_near` on."""
        low = ceil_log2(self._rows)
        tile_final = (left < 0) & ((row_left >= 0) | (left[:low] <= row_left[:low]))
        in_row, in_all = self._near(row_left), self._near(left)
        return Cat(in_row, in_all, left >= 0, tile_final, in_row[-1] | in_all[-1])

    def _near(self, left):
        """Return of pixels less `tile_excess` how many there are, at most a tile's, and whether there is one."""
        low = ceil_log2(self._rows)
        fits, part = left < 0, left[:low]
        near = Mux(fits, part + (self._rows + 1 - (1 << low)), self._rows)
        return Cat(near[: self._rows.bit_length()], fits & (part == (1 << low) - self._rows))
