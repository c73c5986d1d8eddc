"""Issue unit: decides in which cycle the mesh takes its next step."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.fetch import part_layout
from rtl.layouts import address_shape, descriptor_layout


class Issue(wiring.Component):
    """Feed row 0: one byte of the current part and one weight word a cycle, without a bubble where data is there.

    The other rows follow p cycles later by themselves. A tile's last step waits until the shadow registers it will
    overwrite are free: the output path reads a tile at a known time, so two down-counters tell, and nothing else can
    hold the mesh but missing activations and missing second operands.

    Latency: operands reach the mesh's edge `ISSUE_TO_EDGE` cycles after `o_step`. Throughput: one step a cycle.

    Members
    -------
    i_start : begin with `i_descriptor`
    i_clear : stop
    i_launch, i_part : a part is on its way to the serializers; its bytes are there `READ_LATENCY` cycles later
    i_residual_ready : a tile's second operands have arrived
    o_free : the serializers' waiting half is free, or is being taken in this cycle
    o_step, o_take, o_first, o_last : a step is issued; it takes the waiting half; it is its tile's first, last
    o_weight : address of the step's weight word
    o_running : steps remain
    o_wait_output : no step although its operands are there: the output path isn't ready
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(
            {
                "i_start": In(1),
                "i_clear": In(1),
                "i_descriptor": In(descriptor_layout),
                "i_launch": In(1),
                "i_part": In(part_layout(config)),
                "i_residual_ready": In(1),
                "o_free": Out(1),
                "o_step": Out(1),
                "o_take": Out(1),
                "o_first": Out(1),
                "o_last": Out(1),
                "o_weight": Out(address_shape),
                "o_running": Out(1),
                "o_wait_output": Out(1),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config, d = self._config, self.i_descriptor
        lanes = config.lanes

        waiting, active = Signal(part_layout(config)), Signal(part_layout(config))
        on_way, full = Signal(), Signal()
        arriving = Signal(pipeline.READ_LATENCY - 1)
        weight_block = Signal(address_shape)
        residuals = Signal(range(pipeline.RESIDUAL_BUFFERS + 1))

        # the step at the head: the next byte of the active part, or the first of the waiting one
        fresh, head_last, head_block_end, head_last_block = Signal(), Signal(), Signal(), Signal()
        available, ready = Signal(), Signal()
        m.d.comb += [
            fresh.eq(active.count == 0),
            available.eq(~fresh | full),
            head_last.eq(Mux(fresh, waiting.tile_end & (waiting.count == 1), active.tile_end & (active.count == 1))),
            head_block_end.eq(Mux(fresh, waiting.block_end, active.block_end)),
            head_last_block.eq(Mux(fresh, waiting.last_block, active.last_block)),
        ]

        # output path: cycles until a last step may come again, until the drain is free
        hold, busy = Signal(16), Signal(16)
        first_read, margin = pipeline.first_read(config), pipeline.overwrite_margin(config)
        last_groups = (d.last_channels + (lanes - 1)) // lanes
        start_in, drain_cycles = Signal(16), Signal(16)
        m.d.comb += [
            start_in.eq(Mux(busy > first_read, busy, first_read)),
            drain_cycles.eq(config.rows * Mux(head_last_block, last_groups, config.groups)),
            ready.eq(~head_last | ((hold == 0) & (~d.residual | (residuals != 0)))),
            self.o_step.eq(self.o_running & available & ready),
            self.o_take.eq(self.o_step & fresh),
            self.o_last.eq(self.o_step & head_last),
            self.o_free.eq(~on_way | self.o_take),
            self.o_wait_output.eq(self.o_running & available & ~ready),
        ]
        m.d.sync += [
            hold.eq(Mux(hold == 0, 0, hold - 1)),
            busy.eq(Mux(busy == 0, 0, busy - 1)),
        ]
        slack = margin - (pipeline.ISSUE_TO_EDGE + pipeline.EDGE_TO_SHADOW)
        with m.If(self.o_last):
            # this tile's read starts in start_in cycles; the next last step may come slack + 1 cycles later
            m.d.sync += [
                hold.eq(start_in + slack),
                busy.eq(start_in + drain_cycles - 1),
            ]

        m.d.sync += arriving.eq((arriving << 1) | self.i_launch)
        with m.If(self.o_take):
            m.d.sync += [on_way.eq(0), full.eq(0), active.eq(waiting), active.count.eq(waiting.count - 1)]
        with m.Elif(self.o_step):
            m.d.sync += active.count.eq(active.count - 1)
        with m.If(self.i_launch):
            m.d.sync += [on_way.eq(1), waiting.eq(self.i_part)]
        with m.If(arriving[-1]):
            m.d.sync += full.eq(1)

        with m.If(self.o_step):
            m.d.sync += [self.o_first.eq(head_last), self.o_weight.eq(self.o_weight + 1)]
        with m.If(self.o_last):
            with m.If(head_block_end):
                m.d.sync += [weight_block.eq(self.o_weight + 1), self.o_running.eq(~head_last_block)]
            with m.Else():
                m.d.sync += self.o_weight.eq(weight_block)

        with m.If(self.i_residual_ready & ~(self.o_last & d.residual)):
            m.d.sync += residuals.eq(residuals + 1)
        with m.If(~self.i_residual_ready & self.o_last & d.residual):
            m.d.sync += residuals.eq(residuals - 1)

        with m.If(self.i_clear):
            m.d.sync += self.o_running.eq(0)
        with m.Elif(self.i_start):
            m.d.sync += [
                self.o_running.eq(1),
                self.o_first.eq(1),
                self.o_weight.eq(d.weight_base),
                weight_block.eq(d.weight_base),
                on_way.eq(0),
                full.eq(0),
                active.count.eq(0),
                residuals.eq(0),
                hold.eq(0),
                busy.eq(0),
            ]
        return m
