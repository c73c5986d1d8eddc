"""Lookahead: the next mesh step of a unit that makes them, in registers."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.depthwise import StepSource
from rtl.pipeline import delayed


class Lookahead(wiring.Component):
    """Hold the step that is offered next, so that neither side waits for the other's logic.

    A spare one behind it lets the unit go on without asking whether the first is taken: a register for each unit
    tells it so. With one port of activation memory, on a small and slow device, there is no spare.

    Latency: `STEP_LATENCY` from `i_start` to the first step. Throughput: one step a cycle. Backpressure: a step waits
    until it is taken, and so does the unit behind.

    Members
    -------
    i_start : a layer of the unit begins
    i_clear : stop
    i_strips : the layer's unit is that of `strips`; from `i_start` on
    source, strips : the units' steps; the second where the array has strips
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
            | ({"i_strips": In(1), "strips": In(StepSource(config))} if config.strip_columns else {})
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        assert pipeline.STEP_LATENCY == 1
        steps, units, chosen = self.steps, [self.source], [Const(1)]
        offered = [name for name, member in StepSource(self._config).members.items() if member.flow is Out]
        source = {name: getattr(self.source, name) for name in offered}
        if self._config.strip_columns:
            units, chosen = [self.source, self.strips], [~self.i_strips, self.i_strips]
            strips = delayed(m, self.i_strips, 1, alone=True)  # no step comes with the start
            source = {name: Mux(strips, getattr(self.strips, name), value) for name, value in source.items()}
        running, runs, step, free = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~steps.valid | steps.step),
            step.eq(Cat(unit.step for unit in units).any()),
            runs.eq((self.i_start | (running & ~(step & source["end"] & source["last_block"]))) & ~self.i_clear),
        ]
        m.d.sync += running.eq(runs)
        if self._config.one_port:
            m.d.comb += self.source.step.eq(running & self.source.valid & free)
            with m.If(free):
                m.d.sync += [getattr(steps, name).eq(value) for name, value in source.items()]
                m.d.sync += [steps.valid.eq(step), steps.midway.eq(step & source["midway"])]
        else:
            spare, kept = StepSource(self._config).create(), Signal()
            m.d.comb += kept.eq((spare.valid | step) & ~free & ~self.i_clear)
            for index, (unit, use) in enumerate(zip(units, chosen, strict=True)):
                may_step = Signal(name=f"may_step_{index}")
                m.d.sync += may_step.eq(runs & ~kept & use)
                m.d.comb += unit.step.eq(may_step & unit.valid)
            with m.If(~spare.valid):
                m.d.sync += [getattr(spare, name).eq(value) for name, value in source.items()]
            with m.If(free):
                for name, value in source.items():
                    m.d.sync += getattr(steps, name).eq(Mux(spare.valid, getattr(spare, name), value))
                m.d.sync += steps.valid.eq(spare.valid | step)
            m.d.sync += spare.valid.eq(kept)
        with m.If(self.i_clear):
            m.d.sync += [steps.valid.eq(0), steps.midway.eq(0)]
        return m
