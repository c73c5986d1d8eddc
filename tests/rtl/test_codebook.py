"""Books ahead of the columns in Amaranth's simulator: every entry, in every column, from either half of a byte."""

import numpy as np
import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from rtl.paired import WeightUnpack

pytestmark = pytest.mark.rtl


def simulate(dut, bench):
    simulator = Simulator(Fragment.get(dut, None))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def set_word(ctx, dut, word):
    for column, byte in enumerate(word):
        ctx.set(dut.i_word[column], int(byte) & 255)


async def load(ctx, dut, book, cols, rng):
    """Load a book entry by entry, out of words whose other bytes are random."""
    words = rng.integers(-128, 128, (-(-16 // cols), cols))
    words.reshape(-1)[:16] = book
    ctx.set(dut.i_load, 1)
    for entry in range(16):
        set_word(ctx, dut, words[entry // cols])
        ctx.set(dut.i_entry, entry)
        ctx.set(dut.i_column, entry % cols)
        await ctx.tick()
    ctx.set(dut.i_load, 0)


def weights(ctx, dut, cols):
    """Return the signed 8-bit weights on the output, whose upper bits must be their sign."""
    operands = [ctx.get(dut.o[c]) for c in range(cols)]
    values = [(operand & 255 ^ 128) - 128 for operand in operands]
    assert operands == [value & 0x1FFF for value in values]
    return values


@pytest.mark.parametrize("cols", [1, 3, 4, 16, 20])
def test_every_entry_reaches_every_column(cols):
    rng = np.random.default_rng(cols)
    dut = WeightUnpack(cols=cols, codebook=True)

    async def bench(ctx):
        for _ in range(2):
            book = rng.permutation(np.arange(-128, 128))[:16]
            ctx.set(dut.i_steps, 1)
            ctx.set(dut.i_indices, 1)
            await load(ctx, dut, book, cols, rng)
            for first in range(16):
                low, high = ((np.arange(cols) * factor + first) % 16 for factor in (1, 3))
                for odd, indices in enumerate((low, high)):
                    set_word(ctx, dut, high << 4 | low)
                    ctx.set(dut.i_odd, odd)
                    await ctx.tick().repeat(dut.LATENCY)
                    assert weights(ctx, dut, cols) == book[indices].tolist()

    simulate(dut, bench)


def test_only_indices_are_looked_up():
    rng, cols = np.random.default_rng(2), 4
    dut = WeightUnpack(cols=cols, codebook=True)
    word = rng.integers(-128, 128, cols)

    async def bench(ctx):
        await load(ctx, dut, np.arange(16) + 50, cols, rng)
        set_word(ctx, dut, word)
        expected = {(0, 0): word, (1, 0): (word & 15 ^ 8) - 8, (1, 1): (word & 15) + 50}
        for (steps, indices), values in expected.items():
            ctx.set(dut.i_steps, steps)
            ctx.set(dut.i_indices, indices)
            ctx.set(dut.i_entry, 3)  # without i_load nothing is written
            await ctx.tick().repeat(dut.LATENCY)
            assert weights(ctx, dut, cols) == values.tolist()
        ctx.set(dut.i_zero, 1)
        await ctx.tick().repeat(dut.LATENCY)
        assert weights(ctx, dut, cols) == [0] * cols

    simulate(dut, bench)
