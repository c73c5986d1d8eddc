"""A stand-in for the accelerator, the same pins and memory map around a run that only counts, and buses onto it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwq import isa
from hwq.config import ArrayConfig
from hwq.errors import MissingToolError
from rtl.bus import BusSignature
from sim.amaranth_bus import AmaranthBus
from sim.build import build
from sim.elaborate import convert
from sim.toolchain import find_compiler, find_verilator
from sim.verilator_bus import VerilatorBus

CONFIG = ArrayConfig(
    name="dummy", rows=2, cols=3, fetch_bytes=4, lanes=1, act_bytes=1024, weight_words=256, param_words=128, slots=5,
    tables=2,
)  # fmt: skip

WORDS = {
    isa.Region.PROGRAM: CONFIG.slots * isa.SLOT_WORDS,
    isa.Region.PARAM: CONFIG.param_words * CONFIG.param_stride_bytes // 4,
    isa.Region.WEIGHT: CONFIG.weight_words * CONFIG.weight_stride_bytes // 4,
    isa.Region.ACT: CONFIG.act_bytes // 4,
    isa.Region.PROFILE: CONFIG.slots,
    isa.Region.TABLE: CONFIG.tables * isa.TABLE_ENTRIES // 4,
}
"""Every region but the registers is a memory that the bus writes and reads."""


class DummyAccelerator(wiring.Component):
    """Acknowledges `wait_cycles` late; a start takes ``watchdog`` cycles and ends with error code ``pc``."""

    def __init__(self, *, wait_cycles: int, digest: int) -> None:
        self._wait_cycles = wait_cycles
        self._digest = digest
        super().__init__({"bus": In(BusSignature()), "irq": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        bus = self.bus
        request, accept, waited = Signal(), Signal(), Signal(range(self._wait_cycles + 2))
        m.d.comb += request.eq(bus.cyc & bus.stb & ~bus.ack)
        m.d.comb += accept.eq(request & (waited == self._wait_cycles))
        m.d.sync += [waited.eq(Mux(request, waited + 1, 0)), bus.ack.eq(accept)]

        region = bus.adr[isa.REGION_SHIFT - 2 :]
        csr_data = Signal(32)
        with m.Switch(region):
            with m.Case(isa.Region.CSR):
                m.d.comb += bus.dat_r.eq(csr_data)
            for memory_region, words in WORDS.items():
                memory = Memory(shape=32, depth=words, init=[])
                m.submodules[memory_region.name.lower()] = memory
                write, read = memory.write_port(granularity=8), memory.read_port()
                m.d.comb += [read.addr.eq(bus.adr), write.addr.eq(bus.adr), write.data.eq(bus.dat_w)]
                m.d.comb += write.en.eq(Mux(accept & bus.we & (region == memory_region), bus.sel, 0))
                with m.Case(memory_region):
                    m.d.comb += bus.dat_r.eq(read.data)

        pc, watchdog, left, cycles, code = Signal(32), Signal(32), Signal(32), Signal(32), Signal(8)
        busy, done = Signal(), Signal()
        m.d.comb += self.irq.eq(done | (code != 0))
        with m.If(busy):
            m.d.sync += [left.eq(left - 1), cycles.eq(cycles + 1)]
            with m.If(left <= 1):
                m.d.sync += [busy.eq(0), done.eq(pc == 0), code.eq(pc)]
        values = {
            "id": isa.ID_VALUE,
            "digest": self._digest,
            "status": Cat(busy, done, Const(0, isa.STATUS_ERROR_SHIFT - 2), code),
            "pc": pc,
            "watchdog": watchdog,
            "cycles": cycles,
        }
        with m.Switch(bus.adr[:6]):
            for name, value in values.items():
                with m.Case(isa.REGISTER_INDEX[name]):
                    m.d.sync += csr_data.eq(value)
            with m.Default():
                m.d.sync += csr_data.eq(bus.adr[:6])
        with m.If(accept & bus.we & (region == isa.Region.CSR)):
            with m.Switch(bus.adr[:6]):
                with m.Case(isa.REGISTER_INDEX["pc"]):
                    m.d.sync += pc.eq(bus.dat_w)
                with m.Case(isa.REGISTER_INDEX["watchdog"]):
                    m.d.sync += watchdog.eq(bus.dat_w)
                with m.Case(isa.REGISTER_INDEX["control"]):
                    m.d.sync += [busy.eq(bus.dat_w[0]), done.eq(0), code.eq(0), left.eq(watchdog), cycles.eq(0)]
        return m


@pytest.fixture(scope="session")
def tools() -> None:
    """Skip a test on a machine that can't build a simulator."""
    try:
        find_verilator(), find_compiler()
    except MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture
def dummy() -> SimpleNamespace:
    """The stand-in's class, configuration, digest and region sizes."""
    digest = int(CONFIG.digest()[:8], 16)
    return SimpleNamespace(Accelerator=DummyAccelerator, config=CONFIG, digest=digest, words=WORDS)


@pytest.fixture(params=["amaranth", "verilator"])
def open_dummy(request: pytest.FixtureRequest, dummy: SimpleNamespace):
    """Opens a bus onto a fresh stand-in; each test runs on every simulator."""

    def open_bus(wait_cycles: int = 0, digest: int = dummy.digest):
        component = DummyAccelerator(wait_cycles=wait_cycles, digest=digest)
        return AmaranthBus(component) if request.param == "amaranth" else VerilatorBus(build(convert(component)))

    if request.param == "verilator":
        request.getfixturevalue("tools")
    return open_bus
