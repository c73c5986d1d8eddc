# amaranth: UnusedElaboratable=no
"""Rows of adders as a multiplier: every pair of operands of small shapes, against integers."""

import itertools

import pytest
from amaranth.hdl import Fragment, signed, unsigned
from amaranth.sim import Simulator

from rtl.multiplier import RowMultiplier


def numbers(shape):
    """Return all numbers of `shape`."""
    most = 1 << shape.width
    return range(-most // 2, most // 2) if shape.signed else range(most)


def simulate(dut, pairs):
    """Return the outputs of `dut` for all pairs of operands, one a cycle."""
    out = []

    async def bench(ctx):
        for n in range(len(pairs) + dut.LATENCY):
            if n >= dut.LATENCY:
                out.append(ctx.get(dut.o))
            if n < len(pairs):
                ctx.set(dut.i_a, pairs[n][0])
                ctx.set(dut.i_b, pairs[n][1])
            await ctx.tick()

    simulator = Simulator(Fragment.get(dut, None))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return out


@pytest.mark.parametrize("shape_b", [unsigned(2), unsigned(5), signed(2), signed(3)])
@pytest.mark.parametrize("shape_a", [unsigned(1), unsigned(3), signed(1), signed(4)])
def test_every_product(shape_a, shape_b):
    if shape_b.signed and not shape_a.signed:
        with pytest.raises(ValueError, match="First operand must be signed where the second is"):
            RowMultiplier(shape_a, shape_b)
        return
    pairs = list(itertools.product(numbers(shape_a), numbers(shape_b)))
    assert simulate(RowMultiplier(shape_a, shape_b), pairs) == [a * b for a, b in pairs]


def test_single_row_is_refused():
    with pytest.raises(ValueError, match="must have at least 2 bits, not 1"):
        RowMultiplier(signed(8), unsigned(1))
