"""The output path's tables in Amaranth's simulator, against the table itself."""

import numpy as np
import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from hwq import isa
from rtl.tables import Tables
from tests import programs

SEED = 5


def config_of(lanes, tables):
    return programs.tiny(2, 4, 4, lanes, tables=tables)


def simulate(dut, bench):
    simulator = Simulator(Fragment.get(dut, None))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


async def write(ctx, dut, word, value, mask=0xF):
    ctx.set(dut.i_window_address, word)
    ctx.set(dut.i_window_data, value)
    ctx.set(dut.i_window_mask, mask)
    ctx.set(dut.i_window_write, 1)
    await ctx.tick()
    ctx.set(dut.i_window_write, 0)


async def read(ctx, dut, word):
    ctx.set(dut.i_window_address, word)
    ctx.set(dut.i_window_read, 1)
    await ctx.tick()
    ctx.set(dut.i_window_read, 0)
    return ctx.get(dut.o_window)


@pytest.mark.parametrize(("lanes", "tables"), [(1, 1), (2, 3), (4, 16)])
def test_every_byte_through_every_table(lanes, tables):
    dut = Tables(config_of(lanes, tables))
    image = np.random.default_rng(SEED).integers(-128, 128, (tables, isa.TABLE_ENTRIES)).astype(np.int8)
    words = image.view("<u4").reshape(-1)
    numbers = sorted({0, 1, tables})

    async def bench(ctx):
        for word, value in enumerate(words):
            await write(ctx, dut, word, int(value))
        for word in (0, len(words) - 1):
            assert await read(ctx, dut, word) == words[word]
        for number in numbers:
            ctx.set(dut.i_table, number)
            plan = [[(byte + 37 * lane) % 256 - 128 for lane in range(lanes)] for byte in range(256)]
            for n in range(256 + Tables.LATENCY):
                if n >= Tables.LATENCY:
                    source = plan[n - Tables.LATENCY]
                    expected = [int(image[number - 1, value + 128]) if number else value for value in source]
                    got = [ctx.get(dut.o[lane]) for lane in range(lanes)]
                    assert got == [value & 0xFF for value in expected], (number, source)
                if n < 256:
                    for lane in range(lanes):
                        ctx.set(dut.i[lane], plan[n][lane] & 0xFF)
                await ctx.tick()

    simulate(dut, bench)


@pytest.mark.parametrize("lanes", [1, 2])
def test_byte_enables_write_only_their_bytes(lanes):
    dut = Tables(config_of(lanes, 1))

    async def bench(ctx):
        for mask in range(16):
            await write(ctx, dut, mask, 0x04030201)
            await write(ctx, dut, mask, 0xF4F3F2F1, mask)
            kept = sum(0xFF << 8 * byte for byte in range(4) if not mask >> byte & 1)
            assert await read(ctx, dut, mask) == 0x04030201 & kept | 0xF4F3F2F1 & ~kept

    simulate(dut, bench)


def test_an_architecture_without_tables_only_delays():
    dut = Tables(config_of(2, 0))

    async def bench(ctx):
        for n in range(300):
            entered = n - Tables.LATENCY
            if entered >= 0:
                assert [ctx.get(dut.o[lane]) for lane in range(2)] == [entered % 256, 3 * entered % 256]
            ctx.set(dut.i[0], n % 256)
            ctx.set(dut.i[1], 3 * n % 256)
            await ctx.tick()

    simulate(dut, bench)
