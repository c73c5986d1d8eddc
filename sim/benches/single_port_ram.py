"""Single-port memories side by side: a vendor's cell and its twin read the same after random writes."""

from __future__ import annotations

import cocotb

from sim.benches.bench import Bench

CYCLES = 4000


@cocotb.test
async def cell_and_twin_read_the_same(dut) -> None:
    bench = Bench(dut)
    await bench.start(i_address=0, i_write=0, i_mask=0, i_data=0)
    draw = bench.random
    depth = 1 << len(dut.i_address)
    addresses = [0, 1, depth - 1, depth // 2, *(draw.randrange(depth) for _ in range(8))]
    written: dict[int, int] = {}
    reads = 0
    for _ in range(CYCLES):
        address, write, mask, data = (
            draw.choice(addresses),
            draw.random() < 0.5,
            draw.randrange(4),
            draw.randrange(1 << 16),
        )
        if address not in written:
            write, mask = True, 3
        bench.set(i_address=address, i_write=write, i_mask=mask, i_data=data)
        await bench.cycle()
        if write:
            kept = (0x00FF if not mask & 1 else 0) | (0xFF00 if not mask & 2 else 0)
            written[address] = (written.get(address, 0) & kept) | (data & ~kept)
        else:
            assert bench.get("o_cell") == bench.get("o_twin") == written[address]
            reads += 1
    assert reads > CYCLES // 4
