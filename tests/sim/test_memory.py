"""Memories written as Verilog behave like Amaranth's own, cycle for cycle."""

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from sim.elaborate import convert
from sim.memory import LARGE_ROWS

CYCLES = 3000
HOT_ROWS = 4
"""Addresses are drawn from a few rows, so that reads and writes of one row in one cycle are common."""


class Memories(wiring.Component):
    """Two write ports and a read port of every kind, on one address pool; `o` is all that is read."""

    i_w0: In(2 + 4 + 16)
    i_w1: In(2 + 1 + 16)
    i_r: In(4 * 3)
    o: Out(4 * 16)

    def __init__(self, depth):
        self._depth = depth
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=16, depth=self._depth, init=[])
        first, second = memory.write_port(granularity=4), memory.write_port()
        reads = [memory.read_port(transparent_for=ports) for ports in ((), (first,), (second,), (first, second))]
        clash = Signal()
        for port, value in ((first, self.i_w0), (second, self.i_w1)):
            m.d.comb += [port.addr.eq(value[:2]), port.data.eq(value[-16:])]
        m.d.comb += [
            first.en.eq(self.i_w0[2:6]),
            clash.eq((first.addr == second.addr) & first.en.any()),  # two writes of one row have no defined order
            second.en.eq(self.i_w1[2] & ~clash),
            self.o.eq(Cat(read.data for read in reads)),
        ]
        for read, value in zip(reads, (self.i_r[3 * i : 3 * i + 3] for i in range(4)), strict=True):
            m.d.comb += [read.addr.eq(value[:2]), read.en.eq(value[2])]
        return m


class OneMemory(wiring.Component):
    o: Out(8)

    def __init__(self, **options):
        self._options = {"shape": 8, "depth": LARGE_ROWS, "init": []} | options
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(**self._options)
        m.d.comb += self.o.eq(memory.read_port().data)
        return m


def test_every_port_reads_what_amaranth_s_reads(tools, tmp_path):
    from sim.cocotb_runner import run

    rng = np.random.default_rng(7)
    dut = Memories(LARGE_ROWS)
    widths = {"i_w0": 22, "i_w1": 19, "i_r": 12}
    stimulus = {name: rng.integers(0, 1 << width, CYCLES) for name, width in widths.items()}
    outputs = []

    async def testbench(ctx):
        for cycle in range(CYCLES):
            for name in widths:
                ctx.set(getattr(dut, name), int(stimulus[name][cycle]))
            await ctx.tick()
            outputs.append(ctx.get(dut.o))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    text = convert(Memories(LARGE_ROWS))
    assert f"module hwq_ram_{LARGE_ROWS}x16" in text
    np.savez(tmp_path / "case.npz", o=np.array(outputs, np.uint64), **stimulus)
    run(text, "top", "sim.benches.replay", 1, environment={"HWQ_CASE": str(tmp_path / "case.npz")})


def test_a_large_memory_costs_a_few_lines():
    assert len(convert(OneMemory(depth=1 << 20)).splitlines()) < 100


@pytest.mark.parametrize("options", [{"depth": LARGE_ROWS - 1}, {"init": [0, 1]}], ids=["small", "initialized"])
def test_other_memories_stay_with_amaranth(options):
    assert "hwq_ram" in convert(OneMemory())
    assert "hwq_ram" not in convert(OneMemory(**options))


def test_equal_memories_share_a_module():
    class Two(wiring.Component):
        o: Out(8)

        def elaborate(self, platform):
            m = Module()
            m.submodules.a, m.submodules.b = a, b = OneMemory(), OneMemory()
            m.d.comb += self.o.eq(a.o ^ b.o)
            return m

    assert convert(Two()).count("module hwq_ram") == 1
