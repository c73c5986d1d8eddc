"""What every bench shares: clock, reset, random waits and a bus master.

A bench sets inputs and reads outputs at falling edges, when everything has settled; a component samples them at the
rising edge between two of them.
"""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge


def unsigned(value: int, bits: int) -> int:
    """Return the two's complement of `value`, as a port of `bits` takes it."""
    return int(value) & ((1 << bits) - 1)


def signed(value: int, bits: int) -> int:
    """Return the number that `bits` of two's complement mean."""
    return value - (1 << bits) if value >> (bits - 1) else value


class Bench:
    """A component, its clock, and random numbers from the bench's seed.

    Parameters
    ----------
    dut
        cocotb's handle of the component.
    """

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.random = random.Random(cocotb.RANDOM_SEED)

    async def start(self, **inputs: int) -> None:
        """Start the clock and reset the component with `inputs` set."""
        cocotb.start_soon(Clock(self.dut.clk, 2, unit="step").start())
        self.dut.rst.value = 1
        self.set(**inputs)
        await self.cycle(2)
        self.dut.rst.value = 0
        await self.cycle()

    def set(self, **inputs: int) -> None:
        """Set inputs by name; negative numbers become two's complement."""
        for name, value in inputs.items():
            port = getattr(self.dut, name)
            port.value = unsigned(value, len(port))

    def get(self, name: str) -> int:
        """Return an output as an unsigned number."""
        return int(getattr(self.dut, name).value)

    async def cycle(self, count: int = 1) -> None:
        """Wait for `count` falling edges."""
        for _ in range(count):
            await FallingEdge(self.dut.clk)

    async def idle(self, most: int) -> None:
        """Wait 0 to `most` cycles."""
        await self.cycle(self.random.randint(0, most))


class BusMaster:
    """Initiator on the ports ``bus__*`` of `rtl.bus.BusSignature`, with random gaps between transfers.

    Parameters
    ----------
    bench : Bench
    gap : int
        Most idle cycles between two transfers, which also come back to back.
    """

    ACK_LIMIT_CYCLES = 100

    def __init__(self, bench: Bench, gap: int) -> None:
        self.bench, self._gap = bench, gap

    async def _transfer(self, address: int, we: int, data: int, sel: int) -> int:
        bench = self.bench
        if self._gap and bench.random.random() < 0.5:
            await bench.idle(self._gap)
        bench.set(bus__cyc=1, bus__stb=1, bus__we=we, bus__adr=address >> 2, bus__dat_w=data, bus__sel=sel)
        for _ in range(self.ACK_LIMIT_CYCLES):
            await bench.cycle()
            if bench.get("bus__ack"):
                break
        else:
            raise AssertionError(f"no ack at address 0x{address:x}")
        answer = bench.get("bus__dat_r")
        await bench.cycle()  # the request is held through the cycle of ack
        bench.set(bus__stb=0, bus__cyc=bench.random.randint(0, 1))
        return answer

    async def write(self, address: int, data: int, sel: int = 0xF) -> None:
        """Write one word at byte `address`."""
        await self._transfer(address, 1, int(data), sel)

    async def read(self, address: int) -> int:
        """Return the word at byte `address`."""
        return await self._transfer(address, 0, self.bench.random.getrandbits(32), self.bench.random.getrandbits(4))
