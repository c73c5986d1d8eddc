"""Pairs of accumulators side by side: a vendor's cell and its twin, sums that wrap, wait and start from zero."""

from __future__ import annotations

import random

import cocotb

from sim.benches.bench import Bench, signed

STEPS = 20_000
SEED = 20240614


@cocotb.test
async def cell_and_twin_accumulate(dut) -> None:
    bench = Bench(dut)
    await bench.start(i_a=0, i_b=0, i_enable=0, i_clear=1)
    source, sums, products = random.Random(SEED), [0, 0], [(0, 0), (0, 0)]
    for step in range(STEPS):
        total = sums[0] | sums[1] << 16
        if step > 2:  # by then all is known
            assert bench.get("o_cell") == bench.get("o_twin") == total, f"{total:#x} of step {step}"
        extreme = source.random() < 0.2  # runs of the largest products wrap sums
        pairs = [(0x80, 0x80) if extreme else (source.randrange(256), source.randrange(256)) for _ in range(2)]
        enable, clear = source.random() < 0.9 or extreme, source.random() < 0.02 or step < 2
        bench.set(
            **{f"i_{name}": pairs[0][at] | pairs[1][at] << 8 for at, name in enumerate("ab")},
            i_enable=int(enable),
            i_clear=int(clear),
        )
        await bench.cycle()
        added = products.pop(0)
        sums = [0 if clear else (total + product * enable) & 0xFFFF for total, product in zip(sums, added, strict=True)]
        products.append(tuple(signed(a, 8) * signed(b, 8) for a, b in pairs))
