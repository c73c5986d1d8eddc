"""`rtl.link.LinkDevice` in Amaranth's simulator, behind the call that `tests.link.device.DeviceModel` answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from amaranth.sim import Simulator

from rtl.link.device import LinkDevice
from tests.link.device import Framer, Words

IDLE_CYCLES = 256
"""Cycles without a byte after which the device has said all it will: the longest pause inside an answer is shorter."""


class RtlDevice:
    """Parameters: the memory behind the bus, which acknowledges after `wait_cycles`."""

    def __init__(self, memory: Words, wait_cycles: int = 0) -> None:
        self._memory, self._wait_cycles = memory, wait_cycles
        self._dut = LinkDevice()
        self._received: deque[int] = deque()
        self._sent = bytearray()
        self._busy = False
        self._framer = Framer()
        self._simulator = Simulator(self._dut)
        self._simulator.add_clock(1e-6)
        self._simulator.add_testbench(self._run)

    async def _run(self, ctx) -> None:
        dut, bus = self._dut, self._dut.bus
        ctx.set(dut.o.ready, 1)
        quiet = waited = 0
        while True:
            if not self._busy:
                await ctx.delay(0)
                quiet = 0
                continue
            if self._received:
                ctx.set(dut.i.payload, self._received[0])
            ctx.set(dut.i.valid, bool(self._received))
            if self._received and ctx.get(dut.i.ready):
                self._received.popleft()
            sends = ctx.get(dut.o.valid)
            if sends:
                self._sent.append(ctx.get(dut.o.payload))
            request = ctx.get(bus.cyc & bus.stb)
            ack = request and waited > self._wait_cycles
            waited = waited + 1 if request and not ack else 0
            if ack:
                address = 4 * ctx.get(bus.adr)
                if ctx.get(bus.we):
                    self._memory.write(address, ctx.get(bus.dat_w))
                else:
                    ctx.set(bus.dat_r, self._memory.read(address))
            ctx.set(bus.ack, ack)
            quiet = 0 if self._received or sends or request else quiet + 1
            self._busy = quiet < IDLE_CYCLES
            await ctx.tick()

    def __call__(self, data: bytes) -> Iterator[bytes]:
        self._received.extend(data)
        self._busy = bool(data)
        while self._busy:
            self._simulator.advance()
        sent, self._sent = bytes(self._sent), bytearray()
        yield from self._framer(sent)
