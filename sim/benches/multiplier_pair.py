"""Pairs of multipliers side by side: a vendor's cell and its twin, every two bytes in either half."""

from __future__ import annotations

import cocotb

from sim.benches.bench import Bench, signed

LATENCY = 3

STRIDE = 40503
"""Odd: in the other half the bytes come in another order."""


@cocotb.test
async def cell_and_twin_multiply(dut) -> None:
    bench = Bench(dut)
    await bench.start(i_a=0, i_b=0)
    expected: list[int] = []
    for step in range((1 << 16) + LATENCY):
        if len(expected) == LATENCY:
            product = expected.pop(0)
            assert bench.get("o_cell") == bench.get("o_twin") == product, f"{product:#x} of step {step - LATENCY}"
        pairs = [divmod(at & 0xFFFF, 256) for at in (step, step * STRIDE)]
        products = [signed(a, 8) * signed(b, 8) & 0xFFFF for a, b in pairs]
        expected.append(products[0] | products[1] << 16)
        bench.set(**{f"i_{name}": pairs[0][at] | pairs[1][at] << 8 for at, name in enumerate("ab")})
        await bench.cycle()
