"""Strip unit: the steps of a depthwise layer that runs along strips of two output rows."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.depthwise import StepSource
from rtl.layouts import address_shape, descriptor_layout, tile_excess
from rtl.pipeline import delayed


class Strips(wiring.Component):
    """Stream the input of two output rows once, column by column, `STRIP_STEPS` steps a column.

    Mesh rows 2g and 2g + 1 hold the outputs of columns g, g + w, g + 2w, ... with ``w = rows // 2``. In these layers
    weights take `STRIP_STEPS` cycles from one such pair of rows to the next, so the pattern of weights that enters
    at the top every w columns, the kernel's columns one after another with zeros between and behind, meets every pair
    when its own window begins. A tile is w columns; its last outputs finish while the next tile's first ones begin.

    Latency: none, a step is offered in the cycle after the one before was taken. Throughput: one step a cycle, two
    outputs of every channel a column. Backpressure: a strip once begun is not interrupted; the issuer begins one when
    the output path can take all of it.

    Members
    -------
    i_start : begin with `i_descriptor`
    steps : to the issue unit
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(
            {
                "i_start": In(1),
                "i_descriptor": In(descriptor_layout(config)),
                "steps": Out(StepSource(config)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config, d, steps = self._config, self.i_descriptor, self.steps
        width, height = config.strip_columns, pipeline.STRIP_STEPS

        y, next_y = Signal(range(height)), Signal(range(height))
        column = Signal(range(width))  # within the tile
        pixels_left = Signal.like(
            d.pixels
        )  # outputs of the strip that no tile has begun with, of both rows, less these
        excess = tile_excess(config)
        flush_left = Signal(17)  # columns to stream, this one counted
        strips_left, blocks_left = Signal(16), Signal(16)
        block_base, strip_base, column_base, cursor = (Signal(address_shape(config)) for _ in range(4))
        begin, flushing, tile_last, strip_last = Signal(), Signal(), Signal(), Signal()
        column_end, strip_end, last_strip, last_block, single = (Signal() for _ in range(5))
        flush = Signal.like(flush_left)
        m.d.comb += flush.eq((d.pixels >> 1) + (d.span + ((excess + 1) // 2 - 1)))  # there are two pixels in a column
        # no step comes with the start, no column ends with the first
        flush, flush_one, one_strip = delayed(m, flush, 1), delayed(m, flush == 1, 1), d.strips == 1
        with m.If(delayed(m, self.i_start, 1)):
            m.d.sync += [flush_left.eq(flush), strip_last.eq(flush_one)]
        last_column = delayed(m, (d.span - 1)[: len(column)], 1)
        # of a column's steps: has the kernel such a row, has one of both output rows' kernels; no step comes with the
        # start. Of the present step they are in registers
        has_row, has_rows = Signal(), Signal()
        in_kernel, in_rows = (delayed(m, Cat(step < d.taps_y + more for step in range(height)), 1) for more in (0, 1))
        m.d.comb += [
            next_y.eq(Mux(column_end, 0, y + 1)),
            single.eq(last_strip & d.short_strip),
            strip_end.eq(column_end & strip_last),
            steps.end.eq(strip_end & last_strip),
            tile_last.eq(column_end & (column == last_column) & ~flushing),
            steps.valid.eq(1),
            steps.midway.eq(~begin),
            steps.address.eq(cursor),
            steps.read.eq(Mux(single, has_row, has_rows)),
            steps.count.eq(Mux(last_block, d.last_channels, config.depthwise_cols)),
            steps.begin.eq(begin),
            steps.lead.eq(height * d.span),
            steps.zero.eq(flushing | (column >= d.span) | ~has_row),
            steps.first.eq((column == 0) & (y == 0) & ~flushing),
            steps.last.eq(tile_last),
            steps.pixels.eq(Mux(steps.map_end, (pixels_left + excess)[: len(steps.pixels)], 2 * width)),
            steps.map_end.eq(pixels_left <= 2 * width - excess),
            steps.block_end.eq(last_strip & steps.map_end),
            steps.last_block.eq(last_block),
        ]
        with m.If(steps.step):
            m.d.sync += [
                begin.eq(0),
                y.eq(next_y),
                column_end.eq(y == height - 2),
                Cat(has_row, has_rows).eq(Cat(rows.bit_select(next_y, 1) for rows in (in_kernel, in_rows))),
                cursor.eq(cursor + d.tap_y_step),
            ]
            with m.If(column_end):
                following = Signal(address_shape(config))
                m.d.comb += following.eq(column_base + d.ifm_x_step)
                m.d.sync += [
                    column_base.eq(following),
                    cursor.eq(following),
                    flush_left.eq(flush_left - 1),
                    strip_last.eq(flush_left == 2),
                    column.eq(Mux(column == width - 1, 0, column + 1)),
                ]
                with m.If((column == width - 1) & ~flushing):
                    m.d.sync += pixels_left.eq(Mux(steps.map_end, -excess, pixels_left - 2 * width))
                    m.d.sync += flushing.eq(steps.map_end)
            with m.If(strip_end):
                base = Signal(address_shape(config))
                next_block = (block_base + config.depthwise_cols)[: len(base)]
                m.d.comb += base.eq(Mux(last_strip, next_block, strip_base + (d.tap_y_step << 1)))
                m.d.sync += [
                    begin.eq(1),
                    flushing.eq(0),
                    column.eq(0),
                    pixels_left.eq(d.pixels),
                    flush_left.eq(flush),
                    strip_last.eq(flush_one),
                    strips_left.eq(Mux(last_strip, d.strips, strips_left - 1)),
                    last_strip.eq(Mux(last_strip, one_strip, strips_left == 2)),
                    strip_base.eq(base),
                    column_base.eq(base),
                    cursor.eq(base),
                ]
                with m.If(last_strip):
                    m.d.sync += [block_base.eq(base), blocks_left.eq(blocks_left - 1), last_block.eq(blocks_left == 2)]
        with m.If(self.i_start):
            m.d.sync += [
                begin.eq(1),
                flushing.eq(0),
                y.eq(0),
                column_end.eq(0),
                has_row.eq(1),
                has_rows.eq(1),
                column.eq(0),
                pixels_left.eq(d.pixels),
                strips_left.eq(d.strips),
                last_strip.eq(one_strip),
                blocks_left.eq(d.blocks),
                last_block.eq(d.blocks == 1),
                block_base.eq(d.ifm_base),
                strip_base.eq(d.ifm_base),
                column_base.eq(d.ifm_base),
                cursor.eq(d.ifm_base),
            ]
        return m
