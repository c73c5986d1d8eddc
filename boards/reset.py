"""From a clock that has locked to a core that may run: reset as each family has it."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, ClockSignal, Instance, Module, ResetSignal, Signal, Value
from amaranth.lib.cdc import FFSynchronizer

RESET_SECONDS = 20e-6
"""From a stable clock to the end of reset: an iCE40's block RAMs read zeros for some 3 us after configuration."""

GATE_CYCLES = 8
"""From the end of an ECP5's global reset, which comes late to some registers, to the first edge of their clock."""


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

    It needs no wires, lookup tables or control sets of the fabric: a reset net had 15,000 ends in `ecp5-8x16`. The
    domain's clock stands still from before `ready` has ended until `GATE_CYCLES` after its begin, so that no register
    sees the global reset end near an edge.

    Sources: ECP5 sysClock PLL/DLL Design and Usage Guide (FPGA-TN-02200) for DCCA; Yosys sets registers' GSR where the
    design has one of its cells, and leaves alone those that say DISABLED.
    """
    m.domains.sync = ClockDomain(reset_less=True)
    chain = [ready]
    for index in range(GATE_CYCLES + 2):
        o = Signal(name=f"ready_{index}")
        m.submodules[f"ready_{index}"] = Instance("FD1S3AX", p_GSR="DISABLED", i_CK=clock, i_D=chain[-1], o_Q=o)
        chain.append(o)
    m.submodules.reset = Instance("SGSR", i_CLK=clock, i_GSR=chain[2])
    m.submodules.gate = Instance("DCCA", i_CLKI=clock, i_CE=chain[-1] & chain[2], o_CLKO=ClockSignal("sync"))
