"""Lookahead: the next mesh step of a unit that makes them, in registers."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.depthwise import StepSource


class Lookahead(wiring.Component):
    """Hold the step that is offered next, so that neither side waits for the other's logic.

    A spare one behind it lets the unit go on without asking whether the first is taken. With one port of activation
    memory, on a small and slow device, there is no spare.

    Latency: `STEP_LATENCY` from `i_start` to the first step. Throughput: one step a cycle. Backpressure: a step waits
    until it is taken, and so does the unit behind.

    Members
    -------
    i_start : a layer of the unit begins
    i_clear : stop
    source : the unit's steps
    steps : the same, `valid` while one is held
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(
            {
                "i_start": In(1),
                "i_clear": In(1),
                "source": In(StepSource(config)),
                "steps": Out(StepSource(config)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        assert pipeline.STEP_LATENCY == 1
        source, steps = self.source, self.steps
        offered = [name for name, member in StepSource(self._config).members.items() if member.flow is Out]
        running, free = Signal(), Signal()
        m.d.comb += free.eq(~steps.valid | steps.step)
        if self._config.one_port:
            m.d.comb += source.step.eq(running & source.valid & free)
            with m.If(free):
                m.d.sync += [getattr(steps, name).eq(getattr(source, name)) for name in offered]
                m.d.sync += [steps.valid.eq(source.step), steps.midway.eq(source.step & source.midway)]
        else:
            spare = StepSource(self._config).create()
            m.d.comb += source.step.eq(running & source.valid & ~spare.valid)
            with m.If(~spare.valid):
                m.d.sync += [getattr(spare, name).eq(getattr(source, name)) for name in offered]
            with m.If(free):
                for name in offered:
                    m.d.sync += getattr(steps, name).eq(Mux(spare.valid, getattr(spare, name), getattr(source, name)))
                m.d.sync += steps.valid.eq(spare.valid | source.step)
            m.d.sync += spare.valid.eq((spare.valid | source.step) & ~free)
        with m.If(source.step & source.end & source.last_block):
            m.d.sync += running.eq(0)
        with m.If(self.i_start):
            m.d.sync += running.eq(1)
        with m.If(self.i_clear):
            m.d.sync += [running.eq(0), steps.valid.eq(0), steps.midway.eq(0)]
            if not self._config.one_port:
                m.d.sync += spare.valid.eq(0)
        return m
