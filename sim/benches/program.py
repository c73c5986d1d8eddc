"""A whole program over the bus with random waits: every activation byte, status and counter against what was given.

The caller hands over the memories before and after, as the arrays of a .npz file whose path is HWQ_CASE, and the
architecture as HWQ_ARCH.
"""

from __future__ import annotations

import json
import os

import cocotb
import numpy as np

from hwq import isa
from hwq.config import ArrayConfig
from sim.benches.bench import Bench, BusMaster

GAP_CYCLES = 5
BEFORE_START_CYCLES = 200
RUN_LIMIT_CYCLES = 200_000


def register(name: str) -> int:
    """Return the byte address of a register."""
    return isa.bus_address(isa.Region.CSR, 4 * isa.REGISTER_INDEX[name])


async def write_rows(master: BusMaster, region: isa.Region, rows: np.ndarray, stride_bytes: int) -> None:
    """Write each row of `rows` at its place in `region`, in a random order of rows."""
    order = list(range(len(rows)))
    master.bench.random.shuffle(order)
    for index in order:
        data = rows[index].tobytes()
        data += bytes(-len(data) % 4)
        for offset in range(0, len(data), 4):
            word = int.from_bytes(data[offset : offset + 4], "little")
            await master.write(isa.bus_address(region, index * stride_bytes + offset), word)


@cocotb.test
async def a_program_leaves_what_the_machine_leaves(dut) -> None:
    config = ArrayConfig(**json.loads(os.environ["HWQ_ARCH"]))
    case = np.load(os.environ["HWQ_CASE"])
    bench = Bench(dut)
    await bench.start(bus__cyc=0, bus__stb=0, bus__we=0, bus__adr=0, bus__dat_w=0, bus__sel=0)
    master = BusMaster(bench, GAP_CYCLES)
    assert await master.read(register("id")) == isa.ID_VALUE
    await write_rows(master, isa.Region.PARAM, case["params"], config.param_stride_bytes)
    await write_rows(master, isa.Region.WEIGHT, case["weights"], config.weight_stride_bytes)
    await write_rows(master, isa.Region.TABLE, case["tables"].reshape(-1, 4), 4)
    await write_rows(master, isa.Region.ACT, case["act"].reshape(-1, 4), 4)
    await write_rows(master, isa.Region.PROGRAM, case["program"].reshape(-1, 1), 4)
    await bench.idle(BEFORE_START_CYCLES)
    assert not bench.get("irq")

    for attempt in range(2):
        if attempt:
            await write_rows(master, isa.Region.ACT, case["act"].reshape(-1, 4), 4)
        await master.write(register("pc"), 0)
        await master.write(register("control"), isa.CONTROL_START)
        for _ in range(RUN_LIMIT_CYCLES):
            if bench.get("irq"):
                break
            await bench.cycle()
        else:
            raise AssertionError("irq never rose")
        await bench.idle(GAP_CYCLES)
        assert await master.read(register("status")) == isa.STATUS_DONE
        assert await master.read(register("pc")) == int(case["slot"])
        assert await master.read(register("cycles")) == int(case["cycles"])
        for slot, cycles in enumerate(case["profile"]):
            assert await master.read(isa.bus_address(isa.Region.PROFILE, 4 * slot)) == cycles, f"slot {slot}"
        for word, want in enumerate(np.frombuffer(case["after"].tobytes(), "<u4")):
            got = await master.read(isa.bus_address(isa.Region.ACT, 4 * word))
            assert got == want, f"attempt {attempt}, bytes {4 * word}..{4 * word + 3}: 0x{got:08x}, not 0x{want:08x}"


@cocotb.test
async def byte_enables_write_only_their_bytes(dut) -> None:
    config = ArrayConfig(**json.loads(os.environ["HWQ_ARCH"]))
    bench = Bench(dut)
    await bench.start(bus__cyc=0, bus__stb=0, bus__we=0, bus__adr=0, bus__dat_w=0, bus__sel=0)
    master = BusMaster(bench, GAP_CYCLES)
    memories = {  # number of rows, bytes of one, from one to the next
        isa.Region.ACT: (config.act_bytes // 4, 4, 4),
        isa.Region.PARAM: (config.param_words, 8 * config.lanes, config.param_stride_bytes),
        isa.Region.WEIGHT: (config.weight_words, config.cols & ~3, config.weight_stride_bytes),
        isa.Region.TABLE: (config.tables * isa.TABLE_ENTRIES // 4, 4, 4),
    }
    for region, (rows, row_bytes, stride) in memories.items():
        for sel in range(16 if rows and row_bytes else 0):
            row, offset = bench.random.randrange(rows), 4 * bench.random.randrange(row_bytes // 4)
            address = isa.bus_address(region, row * stride + offset)
            old, new = bench.random.getrandbits(32), bench.random.getrandbits(32)
            await master.write(address, old)
            await master.write(address, new, sel)
            mask = sum(0xFF << 8 * byte for byte in range(4) if sel >> byte & 1)
            assert await master.read(address) == (old & ~mask) | (new & mask), f"{region.name} sel {sel:04b}"
