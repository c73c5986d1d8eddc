"""Issue unit: decides in which cycle the mesh takes its next step."""

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq import isa, pipeline
from hwq.config import ArrayConfig
from rtl.depthwise import StepSource
from rtl.fetch import part_layout
from rtl.layouts import BaseControl, descriptor_layout, weight_address_shape
from rtl.paired import wide_blocks
from rtl.pipeline import delayed


class Issue(wiring.Component):
    """Feed row 0: one byte of the current part and one weight word a cycle, without a bubble where data is there.

    The other rows follow p cycles later by themselves. A tile's last step waits until the shadow registers it will
    overwrite are free: the output path reads a tile at a known time, so two down-counters tell, and nothing else can
    hold the mesh but missing activations, missing second operands and books: the entries of a block's book are read
    before its first step, one a cycle, `BOOK_LOAD` in all, by the way that weights take. The counters run on from layer
    to layer.

    Where taps have scales, each tap has a sum of its own, which ends as a tile does, and takes a cycle more: the first,
    in which its scales are read.

    Latency: operands reach the mesh's edge `issue_to_edge` cycles after `o_step`. Throughput: one step a cycle.

    Members
    -------
    i_start : begin with `i_descriptor`
    i_clear : stop
    i_launch, i_part : a part is on its way to the serializers; it can be taken a cycle later
    base : the descriptor's `weight_base`
    depthwise : the unit that makes a DEPTHWISE layer's steps
    i_residual_ready : a tile's second operands have arrived
    i_blocked : no run of a DEPTHWISE layer may begin, since a word waits for activation memory's port
    o_free : the serializers' waiting half is free
    o_step, o_take, o_first, o_last : a step is issued; it takes the waiting half; it is its sum's first, last
    o_pixels, o_block_end, o_last_block : of the step's tile, its pixels; it is its block's last, its block the layer's
    o_scale : instead of a step, the scales of a tap are read
    o_weight : `weight_lag` cycles later, address of the step's, scales' or entry's weight word
    o_zero : the weights are zero instead
    o_pairs, o_steps, o_odd : the word has the weights of two channels, of two steps, of which the later is meant
    o_indices : the weights are indices into the book
    o_book, o_entry, o_column : no step, but this entry of a book is read: byte `o_column` of the word
    o_running : steps remain
    o_wait_output : no step although its operands are there: the output path isn't ready
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(
            {
                "i_start": In(1),
                "i_clear": In(1),
                "i_descriptor": In(descriptor_layout(config)),
                "i_launch": In(1),
                "i_part": In(part_layout(config)),
                "base": Out(BaseControl(weight_address_shape(config))),
                "i_residual_ready": In(1),
                "i_blocked": In(1),
                "depthwise": In(StepSource(config)),
                "o_free": Out(1),
                "o_step": Out(1),
                "o_scale": Out(1),
                "o_take": Out(1),
                "o_first": Out(1),
                "o_last": Out(1),
                "o_pixels": Out(range(config.rows + 1)),
                "o_block_end": Out(1),
                "o_last_block": Out(1),
                "o_weight": Out(weight_address_shape(config)),
                "o_zero": Out(1),
                "o_pairs": Out(1),
                "o_steps": Out(1),
                "o_odd": Out(1),
                "o_indices": Out(1),
                "o_book": Out(1),
                "o_entry": Out(range(isa.BOOK_ENTRIES)),
                "o_column": Out(range(config.cols)),
                "o_running": Out(1),
                "o_wait_output": Out(1),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config, d = self._config, self.i_descriptor
        lanes = config.lanes

        waiting, head = Signal(part_layout(config)), Signal(part_layout(config))
        full = Signal()  # the serializers' waiting half is
        held, unread = Signal(), Signal()  # there is a head; what waits isn't it
        fresh, last_byte, ends_tile = Signal(), Signal(), Signal()  # its step takes the waiting half, is the last
        residuals, seconds = Signal(range(pipeline.RESIDUAL_BUFFERS + 1)), Signal()  # the second: there are, if need be

        # the step at the head: the next byte of a part
        head_last, head_block_end, head_last_block, head_map_end = Signal(), Signal(), Signal(), Signal()
        depthwise, tile_begin, pausing = Signal(), Signal(), Signal()
        # a step can come if there are operands: of the unit's that there are, of a part; and then it may
        able, offered, unit_may, part_may, part_last, part_step = (Signal() for _ in range(6))
        head_first, head_end, head_tile_end = Signal(), Signal(), Signal()  # the second: of its block
        head_pixels = Signal(range(config.rows + 1))
        steps = self.depthwise
        strips = delayed(m, d.strips != 0, 1)  # no step comes with the start
        m.d.sync += depthwise.eq(d.opcode[:2] == isa.Opcode.DEPTHWISE)  # others have been refused
        with m.If(depthwise):
            m.d.comb += [
                head_last.eq(steps.last),
                head_tile_end.eq(steps.last),
                head_first.eq(steps.first),
                head_pixels.eq(steps.pixels),
                head_end.eq(steps.end),
                head_block_end.eq(steps.block_end),
                head_map_end.eq(steps.map_end),
                head_last_block.eq(steps.last_block),
                self.o_zero.eq(steps.zero),
            ]
        with m.Else():
            m.d.comb += [
                head_last.eq(part_last),
                head_tile_end.eq(ends_tile),
                head_pixels.eq(head.pixels),
                head_block_end.eq(head.block_end),
                head_map_end.eq(head_end),
                head_last_block.eq(head.last_block),
                head_first.eq(tile_begin),
                head_end.eq(head_tile_end & head_block_end),
            ]

        wide, paired = wide_blocks(d, config), Signal()
        m.d.comb += [
            self.o_indices.eq((d.codebook != isa.Codebook.NONE) & config.codebooks),
            paired.eq(~head_last_block | (d.last_channels > config.cols)),
            self.o_pairs.eq(wide & ~depthwise & paired),
            self.o_steps.eq((d.int4 & int(config.int4) & ~self.o_pairs) | self.o_indices),
        ]

        # output path: cycles until a last step may come again, until the drain is free
        longest = range(pipeline.longest_output(config) + 1)
        hold, busy, start_in = Signal(longest), Signal(longest), Signal(longest)
        rested, allowed = Signal(init=1), Signal()  # `hold` is over; a run may begin, asked for a cycle ahead
        intervals = [pipeline.read_interval(config, residual and config.adder) for residual in (0, 1)]
        soonest = [pipeline.first_read(config) - 1 + skew for skew in (pipeline.strip_skew(config), 0)]
        less_busy, still_busy = Mux(busy == 0, 0, busy - 1), Mux(strips, *(busy > read + 1 for read in soonest))
        full_groups = Mux(depthwise, config.depthwise_cols // lanes, config.groups << wide)
        last_groups = (d.last_channels + (lanes - 1)) // lanes
        may_begin, may_end = Signal(), Signal()
        ended, least_hold = Signal(), Signal(range(-max(longest), max(longest)))
        earlier_reads, reads_left = Signal(longest), Signal(longest)
        if config.small:
            reads = head_pixels * config.groups
        elif config.one_port:
            reads = head_pixels * Mux(head_last_block, last_groups, full_groups)
        else:  # all rows of all groups but the last one; no step comes with the start
            earlier = (config.rows * (groups - 1) for groups in (last_groups, full_groups))
            earlier = (delayed(m, Mux(d.residual, reads * intervals[1], reads), 1) for reads in earlier)
            m.d.sync += earlier_reads.eq(Mux(head_last_block, *earlier))
            reads = head_pixels
        # of a small array at least so many steps
        lead = steps.pixels if config.small else steps.lead
        strip_lead = pipeline.STRIP_STEPS * d.span
        latest = delayed(m, pipeline.first_read(config) + pipeline.strip_skew(config) + strip_lead, 1)
        m.d.comb += [
            may_end.eq(rested & (seconds | ~ends_tile)),
            may_begin.eq(~ended & (hold <= lead) & (~strips | (busy <= latest))),
            # neither has a step in the other's layers
            able.eq(self.o_running & ~self.o_book & ~pausing),
            offered.eq(steps.valid & (steps.midway | ~self.i_blocked)),
            unit_may.eq(~steps.begin | allowed),
            part_last.eq(head.sum_end & last_byte if config.block_scales else ends_tile),
            part_may.eq(~part_last | may_end),
            steps.step.eq(able & offered & unit_may),
            part_step.eq(able & held & ~self.o_scale & part_may),
            self.o_step.eq(steps.step | part_step),
            self.o_first.eq(head_first),
            Cat(self.o_pixels, self.o_block_end, self.o_last_block).eq(
                Cat(head_pixels, head_block_end, head_last_block)
            ),
            self.o_take.eq(part_step & fresh),
            self.o_last.eq(self.o_step & head_last),
            self.o_free.eq(~full),
            self.o_wait_output.eq(
                self.o_running & ~self.o_book & ((offered & ~unit_may) | (held & ~self.o_scale & ~part_may))
            ),
        ]
        if config.small:
            assert pipeline.SMALL_PAUSE == 1
            m.d.sync += pausing.eq(self.o_last)
        m.d.sync += [
            rested.eq(hold <= 1),
            allowed.eq(may_begin & steps.valid & steps.begin & ~steps.step),
            hold.eq(Mux(hold == 0, 0, hold - 1)),
            busy.eq(less_busy),
            start_in.eq(Mux(still_busy, less_busy, Mux(strips, *soonest))),  # if this step is a tile's last, its read
        ]
        layer_last = head_tile_end & head_block_end & head_last_block
        slack, paired_slack = (
            Mux(d.residual, *(pipeline.overwrite_slack(config, paired, interval) for interval in reversed(intervals)))
            for paired in (False, True)
        )
        turn_wait = Mux(d.residual, *(pipeline.turn_wait(config, interval) for interval in reversed(intervals)))
        # the counters are set a cycle after a tile's last step, one less: its read starts in start_in cycles then
        m.d.sync += [
            ended.eq(self.o_last),
            reads_left.eq(
                Mux(d.residual, reads * intervals[1], reads)
                + (Mux(layer_last, pipeline.BACK_CHANGE, Mux(head_map_end, turn_wait, 0)) - 1)
            ),
            least_hold.eq(Mux(self.o_pairs, paired_slack, slack) - 1),
        ]
        with m.If(self.o_last):
            m.d.sync += rested.eq(0)
        with m.If(ended):
            last_read = start_in + earlier_reads + reads_left
            m.d.sync += [hold.eq(start_in + least_hold), busy.eq(last_read), start_in.eq(last_read), rested.eq(0)]

        # a part becomes the head when it is launched, or waits until the one before has been used up
        # the bytes are there when row 0 needs them
        used_up, source = Signal(), Signal.like(waiting)
        single, waiting_single, two_left = Signal(), Signal(), head.count == 2  # the new head has one byte
        m.d.comb += [
            used_up.eq(~held | (part_step & last_byte)),
            source.eq(Mux(unread, waiting, self.i_part)),
            single.eq(Mux(unread, waiting_single, self.i_part.count == 1)),
        ]
        with m.If(used_up):
            m.d.sync += [held.eq(unread | self.i_launch), unread.eq(0), head.eq(source)]
            m.d.sync += [fresh.eq(1), last_byte.eq(single), ends_tile.eq(single & source.tile_end)]
        with m.Elif(part_step):
            m.d.sync += [fresh.eq(0), last_byte.eq(two_left), ends_tile.eq(two_left & head.tile_end)]
            m.d.sync += head.count.eq(head.count - 1)
        with m.If(self.o_take):
            m.d.sync += full.eq(0)
        with m.If(self.i_launch):
            m.d.sync += [full.eq(1), unread.eq(~used_up)]
            m.d.sync += [waiting.eq(self.i_part), waiting_single.eq(self.i_part.count == 1)]

        # a word is used up by a step, or by two; a block ends with a word
        forward, again, on = Signal(), Signal(), Signal()  # to the next word, to the block's first; that one is next
        word_end = self._read_books(m, self.o_step & head_end & ~head_last_block) if config.codebooks else 0
        m.d.comb += [
            forward.eq(
                Mux(
                    self.o_last,
                    ~self.o_zero | (self.o_steps & self.o_odd),
                    self.o_step & ~self.o_zero & (self.o_odd | ~self.o_steps),
                )
                | self.o_scale
                | word_end
            ),
            again.eq(self.o_last & head_tile_end & ~head_block_end),
            on.eq((self.o_last & head_tile_end & head_block_end) | self.o_book),
        ]
        forward, again, on = (delayed(m, value, pipeline.weight_lag(config)) for value in (forward, again, on))
        m.d.comb += [self.base.move.eq(on), self.base.base.eq(self.o_weight + forward)]
        m.d.sync += self.o_weight.eq(Mux(again, d.weight_base, self.base.base))
        with m.If(self.o_step):
            m.d.sync += [tile_begin.eq(head_last), self.o_odd.eq(self.o_steps & (self.o_odd ^ ~self.o_zero))]
            with m.If(head_end & head_last_block):
                m.d.sync += self.o_running.eq(0)
        with m.If(self.o_last):
            m.d.sync += self.o_odd.eq(0)

        if config.block_scales:
            unscaled = Signal()  # the tap's scales are to be read
            m.d.comb += self.o_scale.eq(self.o_running & unscaled & ~self.o_book)
            with m.If(self.i_start | self.o_last):
                m.d.sync += unscaled.eq(d.scaled)
            with m.Elif(self.o_scale):
                m.d.sync += unscaled.eq(0)

        used = self.o_last & head_tile_end & d.residual
        with m.If(self.i_residual_ready & ~used):
            m.d.sync += [residuals.eq(residuals + 1), seconds.eq(1)]
        with m.If(~self.i_residual_ready & used):
            m.d.sync += [residuals.eq(residuals - 1), seconds.eq(residuals != 1)]

        with m.If(self.i_start):
            m.d.sync += [
                self.o_running.eq(1),
                tile_begin.eq(1),
                self.o_weight.eq(d.weight_base),
                self.o_odd.eq(0),
                full.eq(0),
                held.eq(0),
                unread.eq(0),
                residuals.eq(0),
                seconds.eq(~d.residual),
            ]
        with m.If(self.i_clear):
            m.d.sync += [self.o_running.eq(0), full.eq(0), ended.eq(0), hold.eq(0), busy.eq(0), rested.eq(1)]
        return m

    def _read_books(self, m: Module, next_block: Value) -> Signal:
        """Read a book when the layer starts, and where each block has its own after a step with `next_block`.

        Returns
        -------
        Signal
            Whether the entry is its word's last.
        """
        final, word_end = Signal(), Signal()
        m.d.comb += [
            final.eq(self.o_entry == isa.BOOK_ENTRIES - 1),
            word_end.eq(self.o_book & (final | (self.o_column == self._config.cols - 1))),
        ]
        assert pipeline.BOOK_LOAD == isa.BOOK_ENTRIES  # an entry a cycle
        with m.If(self.o_book):
            m.d.sync += [
                self.o_entry.eq(self.o_entry + 1),
                self.o_column.eq(Mux(word_end, 0, self.o_column + 1)),
                self.o_book.eq(~final),
            ]
        with m.If(next_block & (self.i_descriptor.codebook == isa.Codebook.BLOCK)):
            m.d.sync += self.o_book.eq(1)
        with m.If(self.i_clear):
            m.d.sync += [self.o_book.eq(0), self.o_entry.eq(0), self.o_column.eq(0)]  # as a whole book leaves them
        with m.Elif(self.i_start):
            m.d.sync += self.o_book.eq(self.o_indices)
        return word_end
