"""Drain unit: reads finished tiles out of the mesh's shadow registers, `lanes` results a cycle."""

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import isa, pipeline
from hwq.config import ArrayConfig
from rtl.layouts import BaseControl, address_shape, descriptor_layout, param_address_shape
from rtl.paired import wide_blocks
from rtl.pipeline import delayed
from rtl.walker import WalkerControl


class Drain(wiring.Component):
    """Walk a tile group by group of `lanes` columns, row by row within a group, and give each result its address.

    A CONV tile's pixels run on over the end of a row of the map, those of a DEPTHWISE tile stop there. A strip's
    pixels run down its two rows column by column. Where taps have scales, a tile is walked once for each tap.

    With one port of activation memory a pixel's bytes are written as a word: a tile goes row by row, and group by
    group within a row.

    The order follows the skew of the mesh, so that reading may start `first_read` cycles after the tile's last step
    was issued and the next tile may follow as soon as the read has ended.

    Latency: `o_read` comes `first_read` cycles after `i_last`, in strips `strip_skew` later, or right after the
    previous tile's last, `TURN` later if that was its block's or strip's, `BACK_CHANGE` if another layer's.
    Throughput: one (group, row) a cycle, ``rows * groups`` cycles a tile of `rows` pixels, and with a second operand
    one every `hwq.pipeline.read_interval` cycles; the last group ends with the last pixel, and with one port every
    group does.
    Backpressure: none; the issuer keeps the distance.

    Members
    -------
    i_start, i_starting : begin with `i_descriptor`; that comes next
    i_clear : stop
    i_last, i_strips : a tile's last step is being issued, in strips; it may be of the layer after `i_descriptor`
    o_read : row `o_row`, group `o_group` of the block is being read
    o_selected : one bit for each row and `lanes` columns: these; not with one port
    o_columns, o_pairs, o_high : its columns, the `lanes` from ``lanes * o_columns`` on; they hold two channels each;
        the high one is meant
    o_valid : the row holds a pixel
    o_first, o_last, o_sum_end : the tile's first tap with scales is being read, its last; the tap's last read
    o_final : the layer's last read
    o_ended : the one before was
    o_param : parameter word of the group
    o_address, o_count : where the group's results go, and how many of them exist
    o_row_end : it is the last group of the block
    o_buffer, o_residual_done : buffer of second operands in use; this is the last read from it
    ofm_base, param_base : the descriptor's
    ofm : the output's pixel walker
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(
            {
                "i_start": In(1),
                "i_starting": In(1),
                "i_clear": In(1),
                "i_descriptor": In(descriptor_layout(config)),
                "i_last": In(1),
                "i_strips": In(1),
                "o_read": Out(1),
                "o_row": Out(range(config.rows)),
                "o_group": Out(range(config.widest_block // config.lanes)),
                "o_columns": Out(range(config.groups)),
                "o_pairs": Out(1),
                "o_high": Out(1),
                "o_valid": Out(1),
                "o_first": Out(1),
                "o_last": Out(1),
                "o_sum_end": Out(1),
                "o_final": Out(1),
                "o_ended": Out(1),
                "o_param": Out(param_address_shape(config)),
                "o_address": Out(address_shape(config)),
                "o_count": Out(range(config.lanes + 1)),
                "o_row_end": Out(1),
                "o_buffer": Out(range(pipeline.RESIDUAL_BUFFERS)),
                "o_residual_done": Out(1),
                "ofm_base": Out(BaseControl(address_shape(config))),
                "param_base": Out(BaseControl(param_address_shape(config))),
                "ofm": Out(WalkerControl(config)),
            }
            | ({} if config.one_port else {"o_selected": Out(config.rows * config.groups)})
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config, d = self._config, self.i_descriptor
        rows, lanes, cols = config.rows, config.lanes, config.cols

        strips = delayed(m, d.strips != 0, 1)  # no read comes with the start
        skew = pipeline.strip_skew(config)
        chain = Signal(pipeline.first_read(config) + skew)
        entry = Mux(self.i_strips, self.i_last, self.i_last << skew)
        # a tile is due, waits, is being read, rests between two reads; the map has ended; no read is possible
        due, waiting, running, pause, turn, changing = (Signal() for _ in range(6))
        waits, runs, pauses, changes, map_end = (Signal() for _ in range(5))  # the same in the next cycle
        following = (chain << 1) | entry
        m.d.comb += [
            due.eq(chain[-1]),
            runs.eq(Mux(self.o_read, ~self.o_sum_end, running)),
            waits.eq((due | waiting) & (running | changing | pause | (due & waiting))),
            changes.eq(map_end | self.i_starting),
        ]
        m.d.sync += [
            chain.eq(following),
            running.eq(runs),
            waiting.eq(waits),
            pause.eq(pauses),
            turn.eq(map_end),
            changing.eq(changes),
            self.o_read.eq((runs | ((following[len(chain) - 1] | waits) & ~changes)) & ~pauses),
        ]
        if config.adder and pipeline.read_interval(config, residual=True) == 2:
            m.d.comb += pauses.eq(self.o_read & d.residual)
        assert (pipeline.TURN, pipeline.BACK_CHANGE) == (1, 2)  # a cycle for `turn`, one for `i_start`

        blocks_left = Signal.like(d.blocks)
        channels_left = Signal(range(config.widest_block + 1))  # of the block, from the group on
        offset = Signal(range(config.widest_block))
        last_block, group_end, row_end, tile_end, next_block = Signal(), Signal(), Signal(), Signal(), Signal()
        depthwise, exists, hidden = Signal(), Signal(), Signal()
        stops = Signal()  # a tile's pixels do, at the end of a row of the map
        strips_left, last_strip = Signal.like(d.strips), Signal(init=1)
        strip_base = Signal(address_shape(config))
        wide, columns_end = wide_blocks(d, config), Signal()
        first_channels = Mux(d.opcode[:2] == isa.Opcode.DEPTHWISE, config.depthwise_cols, cols << wide)
        block_channels = delayed(m, first_channels, 1)
        is_depthwise = d.opcode[:2] == isa.Opcode.DEPTHWISE  # others have been refused
        m.d.sync += [depthwise.eq(is_depthwise), stops.eq(is_depthwise & (d.strips == 0))]

        def in_bytes(channels: Value) -> Value:
            return Mux(d.ofm_int4, channels >> 1, channels) if config.act_int4 else channels

        # a map has a read, so that its base has been known for two cycles when the next one begins
        next_base = delayed(m, (d.ofm_base + in_bytes(block_channels))[: len(strip_base)], 1)
        next_strip_base = delayed(m, (strip_base + d.res_x_step)[: len(strip_base)], 1)

        # a tile's pixels are counted in its first row; all that must be known at once is whether it's the only one
        last_row, single, row_begin = Signal(range(rows)), Signal(), Signal(init=1)
        # not the first row and the last that is read: the tile's in the last group, else the mesh's; the first row,
        # which is the last one if there is a single one
        ending, brief = Signal(), Signal()
        in_row = Mux(stops, self.ofm.row_near, rows)
        m.d.comb += single.eq(self.ofm.final | (stops & self.ofm.row_final) | (rows == 1))
        this_last = Mux(row_begin, Mux(self.ofm.near < in_row, self.ofm.near, in_row) - 1, last_row)
        m.d.sync += last_row.eq(this_last)
        m.d.comb += [
            offset.eq(self.o_group * lanes),
            columns_end.eq(self.o_columns == config.groups - 1),
            self.o_pairs.eq(wide & ~depthwise & (~last_block | (d.last_channels > cols))),
            row_end.eq(Mux(row_begin, single, ending) if config.one_port else ending | (brief & single)),
            self.o_sum_end.eq(self.o_read & row_end & group_end),
            tile_end.eq(self.o_sum_end & self.o_last),
            self.o_row_end.eq(group_end),
            hidden.eq(strips & d.short_strip & last_strip & self.o_row[:1].any()),
            next_block.eq(turn & last_strip),
            self.o_count.eq(Mux(group_end, channels_left, lanes)),
            self.o_valid.eq(exists & ~hidden),
            self.o_final.eq(tile_end & self.ofm.final & last_strip & last_block),
            self.o_param.eq(d.param_base + self.o_group),
            self.param_base.move.eq(next_block),
            self.param_base.base.eq(d.param_base + (block_channels >> ceil_log2(lanes))),
            self.o_address.eq(self.ofm.address + in_bytes(offset)),
            self.o_residual_done.eq(tile_end & d.residual),
            self.ofm.start.eq(self.i_start | turn),
            self.ofm.base.eq(
                Mux(self.i_start, d.ofm_base, Mux(last_strip, next_base, next_strip_base)),
            ),
            self.ofm_base.move.eq(self.ofm.start & (self.i_start | last_strip)),
            self.ofm_base.base.eq(self.ofm.base),
            self.ofm.step.eq(self.o_read & (group_end if config.one_port else exists)),
            self.ofm.rewind.eq(0 if config.one_port else self.o_read & row_end & ~(group_end & self.o_last)),
            self.ofm.commit.eq(tile_end),
        ]
        with m.If(self.ofm.start):
            m.d.sync += [strip_base.eq(self.ofm.base), strips_left.eq(strips_left - 1)]
            if config.strip_columns:
                m.d.sync += last_strip.eq(strips_left <= 2)
            with m.If(self.i_start | last_strip):
                m.d.sync += strips_left.eq(d.strips)
                if config.strip_columns:
                    m.d.sync += last_strip.eq(d.strips <= 1)

        def begin_group(last: Value) -> None:
            """Go to the first row of a group, the block's last or not."""
            m.d.sync += [group_end.eq(last), brief.eq(last | (rows == 1))]

        # of a tile of one row nobody asks whether its second row is its last
        second_last = (self.ofm.near == 2) | (stops & (self.ofm.row_near == 2))
        to_last = Mux(row_begin, second_last, self.o_row + 1 == last_row)
        with m.If(self.o_read):
            row_after, group_after = (group_end, 1) if config.one_port else (1, row_end)
            with m.If(row_after):
                m.d.sync += [
                    self.o_row.eq(Mux(row_end, 0, self.o_row + 1)),
                    row_begin.eq(row_end),
                    exists.eq(row_end | Mux(row_begin, ~single, self.o_row < last_row)),
                    ending.eq(~row_end & Mux(group_end | config.one_port, to_last, self.o_row == rows - 2)),
                    brief.eq(0),
                ]
            with m.If(group_after):
                block_left = Mux(last_block, d.last_channels, block_channels)
                begin_group(Mux(group_end, block_left <= lanes, channels_left <= 2 * lanes))
                m.d.sync += [
                    channels_left.eq(Mux(group_end, block_left, channels_left - lanes)),
                    self.o_group.eq(Mux(group_end, 0, self.o_group + 1)),
                    self.o_columns.eq(Mux(group_end | columns_end, 0, self.o_columns + 1)),
                    self.o_high.eq(~group_end & (self.o_high | columns_end)),
                ]
        if not config.one_port:
            # a register for each place, so that what it selects is one wire away
            with m.If(self.o_read):
                first_columns = group_end | columns_end
                entered = [first_columns, *(~first_columns & (self.o_columns == c) for c in range(config.groups - 1))]
                passed = self.o_selected[: -config.groups]
                m.d.sync += self.o_selected.eq(Mux(row_end, Cat(entered), passed << config.groups))
            with m.If(self.i_start):
                m.d.sync += self.o_selected.eq(1)
        if not config.block_scales:
            m.d.comb += self.o_last.eq(1)
        else:
            taps_x_left, taps_y_left = Signal.like(d.taps_x), Signal.like(d.taps_y)
            m.d.comb += self.o_last.eq(~d.scaled | ((taps_x_left == 1) & (taps_y_left == 1)))
            with m.If(self.o_sum_end):
                m.d.sync += [self.o_first.eq(tile_end), taps_x_left.eq(taps_x_left - 1)]
                with m.If(taps_x_left == 1):
                    m.d.sync += [taps_x_left.eq(d.taps_x), taps_y_left.eq(taps_y_left - 1)]
                with m.If(tile_end):
                    m.d.sync += taps_y_left.eq(d.taps_y)
            with m.If(self.i_start):
                m.d.sync += [self.o_first.eq(1), taps_x_left.eq(d.taps_x), taps_y_left.eq(d.taps_y)]
        with m.If(tile_end & d.residual):
            m.d.sync += self.o_buffer.eq(self.o_buffer + 1)
        m.d.comb += map_end.eq(tile_end & self.ofm.final)
        m.d.sync += self.o_ended.eq(self.o_final)
        next_channels = Mux(blocks_left == 2, d.last_channels, block_channels)
        with m.If(next_block):
            m.d.sync += [
                blocks_left.eq(blocks_left - 1),
                last_block.eq(blocks_left == 2),
                channels_left.eq(next_channels),
            ]
            begin_group(next_channels <= lanes)

        start_channels = Mux(d.blocks == 1, d.last_channels, first_channels)
        with m.If(self.i_start):
            begin_group(start_channels <= lanes)
            m.d.sync += [
                blocks_left.eq(d.blocks),
                last_block.eq(d.blocks == 1),
                channels_left.eq(start_channels),
                ending.eq(0),
                self.o_row.eq(0),
                row_begin.eq(1),
                exists.eq(1),
                self.o_group.eq(0),
                self.o_columns.eq(0),
                self.o_high.eq(0),
                self.o_buffer.eq(0),
            ]
        with m.If(self.i_clear):
            m.d.sync += [chain.eq(0), running.eq(0), waiting.eq(0), turn.eq(0), self.o_read.eq(0), self.o_ended.eq(0)]
        return m
