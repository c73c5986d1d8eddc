"""The host bus of the accelerator in Amaranth's own simulator: slow, but it needs no Verilator and no compiler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from amaranth.lib import wiring
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hwq.config import ArrayConfig
from hwq.errors import DeviceError

ACK_LIMIT_CYCLES = 4096
"""A transfer that takes longer than this never ends."""

Operation = Callable[[Any], Awaitable[Any]]


class AmaranthBus:
    """`hwq.driver.Bus` on a component simulated by Amaranth.

    Time stands still between calls: a call hands an operation to the one testbench and advances the simulator until
    it is done.

    Parameters
    ----------
    component : wiring.Component
        Has the members ``bus`` (`rtl.bus.BusSignature`) and ``irq``.
    """

    def __init__(self, component: wiring.Component) -> None:
        self._dut: Any = component
        self._operation: Operation | None = None
        self._result: Any = None
        self.cycles = 0
        """Clock cycles simulated, bus traffic included."""
        self._simulator = Simulator(component)
        self._simulator.add_clock(1e-6)
        self._simulator.add_testbench(self._serve)

    async def _serve(self, ctx: Any) -> None:
        while True:
            await ctx.delay(0)  # gives control back to `_perform` without a clock edge
            if self._operation is not None:
                self._result = await self._operation(ctx)
                self._operation = None

    def _perform(self, operation: Operation) -> Any:
        self._operation = operation
        while self._operation is not None:
            self._simulator.advance()
        return self._result

    async def _tick(self, ctx: Any) -> None:
        self.cycles += 1
        await ctx.tick()

    async def _transfer(self, ctx: Any, address: int, words: NDArray[np.uint32], write: bool) -> None:
        bus = self._dut.bus
        ctx.set(bus.cyc, 1)
        ctx.set(bus.stb, 1)
        ctx.set(bus.sel, 0xF)
        ctx.set(bus.we, write)
        for index in range(words.size):
            ctx.set(bus.adr, (address >> 2) + index)
            if write:
                ctx.set(bus.dat_w, int(words[index]))
            for _ in range(ACK_LIMIT_CYCLES):
                await self._tick(ctx)
                if ctx.get(bus.ack):
                    break
            else:
                raise DeviceError(f"The simulated bus never acknowledged address 0x{address + 4 * index:x}")
            if not write:
                words[index] = ctx.get(bus.dat_r)
            await self._tick(ctx)  # the request is held through the cycle of ack
        for line in (bus.cyc, bus.stb, bus.we):
            ctx.set(line, 0)

    def write(self, address: int, words: NDArray[np.uint32]) -> None:
        """Write `words` to consecutive word addresses from byte address `address`."""
        self._perform(lambda ctx: self._transfer(ctx, address, np.asarray(words, np.uint32), True))

    def read(self, address: int, count: int) -> NDArray[np.uint32]:
        """Read `count` words from consecutive word addresses from byte address `address`."""
        words = np.empty(count, np.uint32)
        self._perform(lambda ctx: self._transfer(ctx, address, words, False))
        return words

    def wait(self, max_cycles: int) -> bool:
        """Run until irq is high; False when it isn't after `max_cycles`."""

        async def until_irq(ctx: Any) -> bool:
            for _ in range(max_cycles):
                if ctx.get(self._dut.irq):
                    return True
                await self._tick(ctx)
            return bool(ctx.get(self._dut.irq))

        return self._perform(until_irq)

    def close(self) -> None:
        """Nothing is held outside the process."""


def open_bus(config: ArrayConfig) -> AmaranthBus:
    """Return the bus of a fresh accelerator of `config`."""
    from rtl.top import Accelerator

    return AmaranthBus(Accelerator(config))
