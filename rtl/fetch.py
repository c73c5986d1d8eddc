"""Fetch unit: which activation bytes each mesh row needs next, `rows` addresses a pass."""

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.layouts import address_shape, descriptor_layout
from rtl.paired import wide_blocks
from rtl.taps import TapControl
from rtl.walker import WalkerControl

RESIDUAL_BUFFERS = pipeline.RESIDUAL_BUFFERS


def part_layout(config: ArrayConfig) -> data.StructLayout:
    """Return what the issuer must know of a part: bytes, last of its sum, its tile's pixels and place."""
    sums = {"sum_end": 1} if config.block_scales else {}
    return data.StructLayout(
        {
            "count": unsigned(ceil_log2(config.fetch_bytes) + 1),
            "tile_end": 1,
            **sums,
            "pixels": range(config.rows + 1),
            "block_end": 1,
            "last_block": 1,
        }
    )


class Fetch(wiring.Component):
    """Split a CONV descriptor into passes and send their addresses, one row a cycle.

    A *part* is up to `fetch_bytes` consecutive bytes of one tap of one pixel. A *pass* fetches the same part for the
    `rows` pixels of a tile, row p in its p-th cycle, so that row p's bytes come exactly p cycles after row 0's, as the
    mesh wants them. Parts run over inner taps, outer taps, tiles and blocks of channels, in this order from the
    inside. With a second operand, a tile's passes are preceded by those that bring its block's bytes of it.

    Latency: a launch sends row 0's address in the same cycle. Throughput: one pass every `rows` cycles, and `TURN` more
    between two blocks.
    Backpressure: a part waits until the serializers' waiting half is free (`i_free`), a pass of second operands until
    one of `RESIDUAL_BUFFERS` buffers is (`i_residual_done` frees one).

    Members
    -------
    i_start : begin with `i_descriptor`
    i_clear : stop
    i_free : the serializers' waiting half is free, with two ports in the next cycle
    i_residual_done : a buffer of second operands has been used up
    i_blocked : no pass may begin, since a word waits for activation memory's port
    o_running : passes remain
    o_midway : a pass has begun and has reads to come
    o_launch : row 0's address of a part is being sent; `o_part` describes it
    o_read, o_address : read request to activation memory
    o_row : mesh row of the request
    o_count : bytes of the request that matter
    o_residual, o_buffer, o_slice : the request is for the second operand: its buffer, the `fetch_bytes` slice of it
    o_residual_end : the request completes a tile's second operands
    taps : the tap walker
    ifm, res : the pixel walkers
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        count_bits = ceil_log2(config.fetch_bytes) + 1
        super().__init__(
            {
                "i_start": In(1),
                "i_clear": In(1),
                "i_descriptor": In(descriptor_layout(config)),
                "i_free": In(1),
                "i_residual_done": In(1),
                "i_blocked": In(1),
                "o_running": Out(1),
                "o_midway": Out(1),
                "o_launch": Out(1),
                "o_part": Out(part_layout(config)),
                "o_read": Out(1),
                "o_address": Out(address_shape(config)),
                "o_row": Out(range(config.rows)),
                "o_count": Out(count_bits),
                "o_residual": Out(1),
                "o_buffer": Out(range(RESIDUAL_BUFFERS)),
                "o_slice": Out(range(config.residual_passes)),
                "o_residual_end": Out(1),
                "taps": Out(TapControl(config)),
                "ifm": Out(WalkerControl(config)),
                "res": Out(WalkerControl(config)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config, d = self._config, self.i_descriptor
        rows, fetch = config.rows, config.fetch_bytes
        width = config.cols << wide_blocks(d, config)

        running, residual_phase = self.o_running, Signal() if config.adder else Const(0)
        row, midway, row_end = Signal(range(rows)), Signal(), Signal()
        slices = Signal(range(config.residual_passes))
        blocks_left = Signal.like(d.blocks)
        span_left, offset = Signal.like(d.span), Signal(address_shape(config))
        credits, credit = Signal(range(RESIDUAL_BUFFERS + 1)), Signal()  # the second: there are some
        buffer = Signal(range(RESIDUAL_BUFFERS))
        res_base = Signal(address_shape(config))

        # the pass about to be launched or under way
        span_end, tile_end, last_block = Signal(), Signal(), Signal()
        slice_offset = Signal(range(config.residual_passes * fetch))
        slice_left = Signal(range(config.widest_block + 1))
        slices_end, go = Signal(), Signal()
        ready, may = Signal(), Signal()  # the unit runs and no walker turns; a pass may begin
        turn, res_turn = Signal(), Signal()  # the walker goes back to the map's first pixel, for the next block
        # what a pass's last read ends; a register has it by then, if the pass has several
        part_end, kernel_end, rewind, slice_end, res_end, res_rewind = (Signal() for _ in range(6))
        is_ifm, is_res = ~residual_phase, residual_phase
        ifm_ends, res_ends = (span_end, tile_end, ~tile_end), (1, slices_end, ~slices_end)
        endings = Cat(*(is_ifm & end for end in ifm_ends), *(is_res & end for end in res_ends))
        last = Cat(part_end, kernel_end, rewind, slice_end, res_end, res_rewind)
        if rows == 1:
            m.d.comb += last.eq(endings)
        else:
            with m.If(go):
                m.d.sync += last.eq(Mux(row == rows - 2, endings, 0))
        m.d.comb += [
            self.o_midway.eq(running & midway),
            span_end.eq(span_left <= fetch),
            tile_end.eq(span_end & self.taps.end),
            slice_offset.eq(slices * fetch),
            slice_left.eq(Mux(last_block, d.last_channels, width) - slice_offset),
            slices_end.eq(slice_left <= fetch),
            go.eq(ready & (midway | may)),
            self.o_read.eq(go),
            self.o_row.eq(row),
            self.o_residual.eq(residual_phase),
            self.o_buffer.eq(buffer),
            self.o_slice.eq(slices),
            self.o_launch.eq(go & ~midway & ~residual_phase),
            self.o_part.count.eq(Mux(span_end, span_left, fetch)),
            self.o_part.tile_end.eq(tile_end),
            self.o_part.pixels.eq(self.ifm.near),
            self.o_part.block_end.eq(~self.ifm.more),
            self.o_part.last_block.eq(last_block),
        ]
        if config.block_scales:
            m.d.comb += self.o_part.sum_end.eq(tile_end | (span_end & d.scaled))
        with m.If(residual_phase):
            m.d.comb += [
                self.o_address.eq(self.res.address + slice_offset),
                self.o_count.eq(Mux(slices_end, slice_left, fetch)),
                self.o_residual_end.eq(go & res_end),
            ]
        with m.Else():
            m.d.comb += [
                self.o_address.eq(self.ifm.address + offset),
                self.o_count.eq(self.o_part.count),
            ]

        # walkers: rewind after every pass, go on after a tile's last, start again after a block's last
        m.d.sync += [
            turn.eq(go & kernel_end & self.ifm.final),
            res_turn.eq(go & res_end & self.res.final),
        ]
        m.d.comb += [
            self.taps.step.eq(go & part_end),
            self.taps.start.eq(self.i_start),
            self.ifm.start.eq(self.i_start | turn),
            self.ifm.base.eq(d.ifm_base),
            self.ifm.step.eq(go & is_ifm),
            self.ifm.commit.eq(go & kernel_end),
            self.ifm.rewind.eq(go & rewind),
            self.res.start.eq(self.i_start | res_turn),
            self.res.base.eq(Mux(self.i_start, d.res_base, (res_base + width)[: len(res_base)])),
            self.res.step.eq(go & is_res),
            self.res.commit.eq(go & res_end),
            self.res.rewind.eq(go & res_rewind),
        ]
        with m.If(self.res.start):
            m.d.sync += res_base.eq(self.res.base)

        with m.If(go):
            m.d.sync += [row.eq(Mux(row_end, 0, row + 1)), midway.eq(~row_end)]
            if rows > 1:
                m.d.sync += row_end.eq(row == rows - 2)
        with m.If(go & slice_end):
            m.d.sync += slices.eq(Mux(res_end, 0, slices + 1))
            with m.If(res_end):
                m.d.sync += buffer.eq(buffer + 1)
        with m.If(go & (rewind | kernel_end)):
            m.d.sync += [span_left.eq(span_left - fetch), offset.eq(offset + fetch)]
            with m.If(part_end):
                m.d.sync += [span_left.eq(d.span), offset.eq(self.taps.following)]
            with m.If(kernel_end):
                m.d.sync += offset.eq(0)
        with m.If(go & kernel_end & self.ifm.final):
            m.d.sync += ready.eq(0)
        with m.If(turn):
            m.d.sync += [blocks_left.eq(blocks_left - 1), last_block.eq(blocks_left == 2)]
            m.d.sync += [running.eq(~last_block), ready.eq(~last_block)]

        used, phase_after, credit_after = go & res_end, Signal(), Signal()
        if config.adder:
            m.d.comb += phase_after.eq(Mux(self.i_start | (go & kernel_end), d.residual, residual_phase & ~used))
            m.d.sync += residual_phase.eq(phase_after)
        m.d.comb += credit_after.eq(credit)
        with m.If(used & ~self.i_residual_done):
            m.d.sync += credits.eq(credits - 1)
            m.d.comb += credit_after.eq(credits != 1)
        with m.If(~used & self.i_residual_done):
            m.d.sync += credits.eq(credits + 1)
            m.d.comb += credit_after.eq(1)
        m.d.sync += credit.eq(credit_after)
        if config.one_port:
            m.d.comb += may.eq(Mux(residual_phase, credit, self.i_free) & ~self.i_blocked)
        else:
            m.d.sync += may.eq(Mux(phase_after, credit_after | self.i_start, self.i_free))

        with m.If(self.i_start):
            m.d.sync += [
                running.eq(1),
                ready.eq(1),
                row.eq(0),
                midway.eq(0),
                *([last.eq(0)] if rows > 1 else []),
                row_end.eq(rows == 1),
                slices.eq(0),
                blocks_left.eq(d.blocks),
                last_block.eq(d.blocks == 1),
                span_left.eq(d.span),
                offset.eq(0),
                credits.eq(RESIDUAL_BUFFERS),
                credit.eq(1),
                buffer.eq(0),
            ]
        with m.If(self.i_clear):
            m.d.sync += [running.eq(0), ready.eq(0), turn.eq(0)]
        return m
