"""The serializer: parts of random length, steps with random bubbles, the next part written while one is shifted out."""

from __future__ import annotations

import cocotb

from sim.benches.bench import Bench

PARTS = 300


@cocotb.test
async def bytes_come_out_in_order(dut) -> None:
    bench = Bench(dut)
    await bench.start(i_write=0, i_data=0, i_step=0, i_take=0)
    draw = bench.random
    fetch_bytes = len(dut.i_data) // 8
    waiting: bytes | None = None
    active = b""
    parts, expected = 0, None
    while parts < PARTS or waiting is not None or active:
        if expected is not None:
            assert bench.get("o") == expected
        take = not active and waiting is not None
        step = draw.random() < 0.7 and (bool(active) or take)
        take = take and step
        if step:
            source = waiting if take else active
            assert source is not None
            expected, active = source[0], source[1:]
        write = parts < PARTS and draw.random() < 0.3 and (waiting is None or take)
        data = draw.randbytes(fetch_bytes)
        if take:
            waiting = None
        if write:
            waiting = data[: draw.randint(1, fetch_bytes)]
            parts += 1
        bench.set(i_write=write, i_data=int.from_bytes(data, "little"), i_step=step, i_take=take)
        await bench.cycle()
    assert bench.get("o") == expected
