"""Drain unit of small arrays: reads finished tiles out of the mesh, pixel by pixel, all columns of it."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.layouts import BaseControl, descriptor_layout, param_address_shape


class SmallDrain(wiring.Component):
    """Walk a tile's pixels, and of each the columns; what the tile is comes with its last step.

    Latency: `o_read` comes with `i_due`, or right after the previous tile's last. Throughput: a sum a cycle,
    ``pixels * cols`` cycles a tile. Backpressure: none; the issuer keeps the distance: a tile's last step comes after
    the first read of the tile before.

    Members
    -------
    i_start : begin with `i_descriptor`
    i_clear : stop
    i_last, i_pixels, i_block_end, i_last_block : a tile's last step; its pixels; whether it is its block's last, its
        block the layer's
    i_due : that tile's first sum can be read
    o_read, o_column : the sum of this column is being read
    o_param : its parameter word
    o_exists : its channel exists
    param_base : the descriptor's
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(
            {
                "i_start": In(1),
                "i_clear": In(1),
                "i_descriptor": In(descriptor_layout(config)),
                "i_last": In(1),
                "i_pixels": In(range(config.rows + 1)),
                "i_block_end": In(1),
                "i_last_block": In(1),
                "i_due": In(1),
                "o_read": Out(1),
                "o_column": Out(range(config.cols)),
                "o_param": Out(param_address_shape(config)),
                "o_exists": Out(1),
                "param_base": Out(BaseControl(param_address_shape(config))),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config, d = self._config, self.i_descriptor
        assert pipeline.overwrite_slack(config) > 0  # the next tile's last step comes after the first read
        coming, tile = (
            [Signal.like(port, name=f"{when}_{port.name[2:]}") for port in self._tile] for when in ("next", "now")
        )
        row, running, waiting = Signal(range(config.rows)), Signal(), Signal()
        pixels, block_end, last_block = tile
        pixel_end, tile_end = Signal(), Signal()
        m.d.comb += [
            self.o_read.eq(running | waiting | self.i_due),
            pixel_end.eq(self.o_column == config.cols - 1),
            tile_end.eq(self.o_read & pixel_end & (row == (pixels - 1)[: len(row)])),
            self.o_param.eq(d.param_base + self.o_column),
            self.o_exists.eq((self.o_column == 0) | ~last_block | (self.o_column < d.last_channels)),
            self.param_base.move.eq(tile_end & block_end),
            self.param_base.base.eq(d.param_base + config.cols),
        ]
        with m.If(self.i_last):
            m.d.sync += [kept.eq(port) for kept, port in zip(coming, self._tile, strict=True)]
        with m.If(self.o_read & ~running):
            m.d.sync += [now.eq(kept) for now, kept in zip(tile, coming, strict=True)]
        with m.If(self.o_read):
            m.d.sync += [running.eq(~tile_end), self.o_column.eq(Mux(pixel_end, 0, self.o_column + 1))]
            with m.If(pixel_end):
                m.d.sync += row.eq(Mux(tile_end, 0, row + 1))
        with m.If(self.i_due & running):
            m.d.sync += waiting.eq(1)
        with m.Elif(~running):
            m.d.sync += waiting.eq(0)
        with m.If(self.i_clear | self.i_start):
            m.d.sync += [running.eq(0), waiting.eq(0), row.eq(0), self.o_column.eq(0)]
        return m

    @property
    def _tile(self):
        return self.i_pixels, self.i_block_end, self.i_last_block
