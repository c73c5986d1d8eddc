"""Depthwise unit: the steps of a layer whose channels have weights of their own."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq.config import ArrayConfig
from rtl.layouts import BaseControl, address_shape, descriptor_layout, field_width
from rtl.pipeline import delayed
from rtl.taps import TapControl
from rtl.walker import WalkerControl


class StepSource(wiring.Signature):
    """Mesh steps offered one after another.

    Members
    -------
    step : the offered step is taken
    valid : a step is offered
    last, pixels : it is its tile's last; pixels of the tile, counted over all rows of the mesh it takes
    block_end, last_block : its tile is its block's last; its block is the layer's last
    zero : its weights are zero
    first : it is its tile's first
    begin : it begins a run that mustn't be interrupted and that holds a tile's last step; it waits a cycle
    lead : steps of the run up to that one
    end : it is its block's last
    map_end : its tile is the last of a block or strip
    midway : it continues a run
    read, address, count : it reads from this address; how many of the bytes matter
    """

    def __init__(self, config: ArrayConfig):
        super().__init__(
            {
                "step": In(1),
                "valid": Out(1),
                "last": Out(1),
                "pixels": Out(range(config.rows + 1)),
                "block_end": Out(1),
                "last_block": Out(1),
                "zero": Out(1),
                "first": Out(1),
                "begin": Out(1),
                "lead": Out(max(field_width(config, "span"), config.rows.bit_length()) + 1),
                "end": Out(1),
                "map_end": Out(1),
                "midway": Out(1),
                "read": Out(1),
                "address": Out(address_shape(config)),
                "count": Out(range(config.cols + 1)),
            }
        )


class Depthwise(wiring.Component):
    """Split a DEPTHWISE descriptor into runs of steps, one activation read each.

    A tile is up to `rows` neighbouring pixels of one row of the map. For each inner tap the unit reads the channels of
    ``pixels + span - 1`` neighbouring input pixels, one a step, and sends each down every column; the first `span`
    steps bring the tap's weights, which move down a row a step, so that row p multiplies pixel p + k by weight k; the
    others bring zeros. A convolution with stride s has s inner taps, one for each phase of its input pixels; weights
    of more than 8 bits are the sum of several, for which an inner tap is repeated.

    Latency: none, a step is offered in the cycle after the one before was taken. Throughput: one step a cycle, and a
    cycle without one between two blocks.
    Backpressure: a run once begun isn't interrupted, since weights move every cycle; the issuer holds a tile's last run
    until it can end.

    Members
    -------
    i_start : begin with `i_descriptor`
    steps : to the issue unit
    base : the descriptor's `ifm_base`
    taps : the tap walker
    ifm : the input's pixel walker
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(
            {
                "i_start": In(1),
                "i_descriptor": In(descriptor_layout(config)),
                "steps": Out(StepSource(config)),
                "base": Out(BaseControl(address_shape(config))),
                "taps": Out(TapControl(config)),
                "ifm": Out(WalkerControl(config)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config, d, steps, taps, ifm = self._config, self.i_descriptor, self.steps, self.taps, self.ifm
        rows, cols = config.rows, config.depthwise_cols

        tile_begin = Signal()
        cursor = Signal(address_shape(config))
        pixels, saved_pixels = Signal(range(rows + 1)), Signal(range(rows + 1))
        saved_single = Signal()
        final, saved_final = Signal(), Signal()
        left = Signal(len(d.span) + 1)  # two more than the steps of the run behind this one, from its third on
        second, sent, walks = Signal(), Signal(), Signal()  # the run's second step; its weights are all sent; see below
        index = Signal.like(d.span)  # of the present step in the run, from its second on
        blocks_left, last_block, repeat = Signal.like(d.blocks), Signal(), Signal(2)
        single, run_begin, ending, brief = Signal(), Signal(), Signal(), Signal()
        run_end, tap_end, last_run, second_ends, third_ends = (Signal() for _ in range(5))
        tap_done = Signal(attrs={"keep": 1})  # or synthesis puts a late `step` in front of what is known long before
        turn = Signal()  # the walker goes back to the map's first pixel
        m.d.sync += turn.eq(steps.step & steps.last & final)
        # of a tap's runs: the steps beyond their pixels; with one pixel they have one, two, three
        beyond, one_step, two_steps, three_steps = Signal.like(index), Signal(), Signal(), Signal()
        runs = Cat(beyond, one_step, two_steps, three_steps)
        whole, short = (
            Cat((d.span - less)[: len(index)], *(d.span == less + more for more in range(3))) for less in (1, 2)
        )
        # whether a row's next tap is short, which it is from some tap on; no step comes with the start
        short_next, first_short = Signal(), d.short_from == 1
        before_short = delayed(m, d.short_from - 2, 1)
        runs_after = Mux(~taps.row_end & short_next, short, whole)  # the next tap's
        alone = Const(1) if rows == 1 else ifm.alone
        once = d.repeats == 0  # each tap is taken once
        m.d.comb += [
            steps.valid.eq(~turn),
            steps.midway.eq(~run_begin),
            pixels.eq(Mux(tile_begin, Mux(final, ifm.near, ifm.row_near), saved_pixels)),
            final.eq(Mux(tile_begin, ifm.tile_final, saved_final)),
            # whether a step ends its run is known a step ahead, but for a tile's first
            single.eq(Mux(tile_begin, alone, saved_single)),
            run_end.eq(ending | (brief & alone)),
            second_ends.eq(Mux(single, two_steps, (pixels == 2) & one_step)),
            third_ends.eq(
                ((saved_pixels == 1) & three_steps)
                | ((saved_pixels == 2) & two_steps)
                | ((saved_pixels == 3) & one_step)
            ),
            tap_done.eq(run_end & tap_end),
            last_run.eq(tap_end & taps.end),
            steps.read.eq(1),
            steps.address.eq(Mux(tile_begin, ifm.address, cursor)),
            steps.count.eq(Mux(last_block, d.last_channels, cols)),
            # the same as of `pixels`, whose choice comes late
            steps.lead.eq(
                Mux(
                    tile_begin,
                    Mux(ifm.tile_final, beyond + ifm.near, beyond + ifm.row_near),
                    beyond + saved_pixels,
                )
            ),
            steps.pixels.eq(pixels),
            steps.first.eq(tile_begin),
            steps.end.eq(steps.last & final),
            steps.zero.eq(~run_begin & sent),
            steps.begin.eq(run_begin & last_run),
            steps.last.eq(run_end & last_run),
            steps.block_end.eq(final),
            steps.map_end.eq(final),
            steps.last_block.eq(last_block),
            taps.step.eq(steps.step & tap_done),
            taps.start.eq(self.i_start),
            # the walker stays at the tile's first pixel until the last run, which takes it a pixel on for each of them
            ifm.step.eq(steps.step & last_run & (run_begin | walks)),
            ifm.start.eq(self.i_start | turn),
            ifm.base.eq(d.ifm_base + Mux(self.i_start, 0, cols)),
            self.base.move.eq(ifm.start),
            self.base.base.eq(ifm.base),
        ]
        with m.If(steps.step):
            m.d.sync += [
                tile_begin.eq(0),
                saved_pixels.eq(pixels),
                saved_single.eq(single),
                saved_final.eq(final),
                left.eq(Mux(second, saved_pixels + beyond, left - 1)),
                second.eq(run_begin),
                sent.eq(Mux(run_begin, one_step, sent | (index == beyond))),
                walks.eq(Mux(run_begin, ~single, walks & (index[: len(saved_pixels)] + 1 != saved_pixels))),
                index.eq(Mux(run_begin, 1, index + 1)),
                run_begin.eq(run_end),
                cursor.eq(steps.address + d.ifm_x_step),
                ending.eq(Mux(run_begin, second_ends, Mux(second, third_ends, left == 4))),
                brief.eq(0),  # it ends its run if its tile has one pixel
            ]
            with m.If(run_end):
                one_step_after = Mux(tap_end, runs_after[len(beyond)], one_step)
                m.d.sync += [
                    ending.eq(one_step_after & ~last_run & (run_begin | saved_single)),
                    brief.eq(one_step_after & last_run),
                ]
                m.d.sync += [
                    cursor.eq(ifm.address + Mux(tap_end, taps.following, taps.offset)),
                    repeat.eq(Mux(tap_end, 0, repeat + 1)),
                    tap_end.eq(Mux(tap_end, once, repeat + 1 == d.repeats)),
                ]
            with m.If(steps.last):
                m.d.sync += tile_begin.eq(1)
                with m.If(final):
                    m.d.sync += [blocks_left.eq(blocks_left - 1), last_block.eq(blocks_left == 2)]
        with m.If(taps.step):
            m.d.sync += [
                runs.eq(runs_after),
                short_next.eq(Mux(taps.row_end, first_short, short_next | (taps.inner == before_short))),
            ]
        with m.If(self.i_start):
            m.d.sync += [
                runs.eq(whole),
                short_next.eq(first_short),
                tile_begin.eq(1),
                run_begin.eq(1),
                ending.eq(0),
                brief.eq(d.span == 1),
                repeat.eq(0),
                tap_end.eq(once),
                blocks_left.eq(d.blocks),
                last_block.eq(d.blocks == 1),
            ]
        return m
