"""From a clock that has locked to a core that may run: reset as each family has it."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, ClockSignal, Instance, Module, ResetSignal, Signal, Value
from amaranth.lib.cdc import FFSynchronizer

RESET_SECONDS = 20e-6
"""From a stable clock to the end of reset: an iCE40's block RAMs read zeros for some 3 us after configuration."""


def by_net(m: Module, clock: Value, ready: Value, hz: float) -> None:
    """Add domain "sync", reset synchronously until `RESET_SECONDS` after `ready`."""
    # One clock, two domains: what counts the reset isn't reset by it.
    m.domains.sync = ClockDomain()
    m.domains.start = ClockDomain(reset_less=True, local=True)
    m.d.comb += [ClockSignal("sync").eq(clock), ClockSignal("start").eq(clock)]
    stable, held = Signal(), Signal(init=1)
    m.submodules.stable = FFSynchronizer(ready, stable, o_domain="start")
    cycles = round(RESET_SECONDS * hz)
    waited = Signal(range(cycles + 1))
    with m.If(~stable):
        m.d.start += [waited.eq(0), held.eq(1)]
    with m.Elif(waited == cycles):
        m.d.start += held.eq(0)
    with m.Else():
        m.d.start += waited.eq(waited + 1)
    m.d.comb += ResetSignal("sync").eq(held)


def by_global_reset(m: Module, clock: Value, ready: Value) -> None:
    """Add domain "sync" of an ECP5, whose registers the global set/reset puts back to what they were configured to.

    It needs no wires, lookup tables or control sets of the fabric: a reset net had 15,000 ends in `ecp5-8x16`. Nothing
    moves by itself at its end, which may come to registers in different cycles.

    Source: Yosys sets registers' GSR where the design has one of its cells, and leaves alone those that say DISABLED.
    """
    m.domains.sync = ClockDomain(reset_less=True)
    m.d.comb += ClockSignal("sync").eq(clock)
    for index in range(2):
        synchronized = Signal(name=f"ready_{index}")
        register = Instance("FD1S3AX", p_GSR="DISABLED", i_CK=clock, i_D=ready, o_Q=synchronized)
        m.submodules[f"ready_{index}"], ready = register, synchronized
    m.submodules.reset = Instance("SGSR", i_CLK=clock, i_GSR=ready)
