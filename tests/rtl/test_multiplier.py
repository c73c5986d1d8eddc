# amaranth: UnusedElaboratable=no
"""Multipliers against integers: rows of adders, digits, and operands wider than a DSP block."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.hdl import Fragment, signed, unsigned
from amaranth.sim import Simulator

from rtl.digit_multiplier import DigitMultiplier
from rtl.multiplier import PipelinedMultiplier, RowMultiplier


def numbers(shape):
    """Return all numbers of `shape`."""
    most = 1 << shape.width
    return range(-most // 2, most // 2) if shape.signed else range(most)


SEED = 20240611


def simulate(dut, operands, *, latency=None, late=0, platform=None):
    """Return the outputs of `dut` for all operands, one a cycle, the first operand `late` cycles after the others."""
    out, latency = [], late + (dut.LATENCY if latency is None else latency)

    async def bench(ctx):
        for n in range(len(operands) + latency):
            if n >= latency:
                out.append(ctx.get(dut.o))
            if late <= n < len(operands) + late:
                ctx.set(dut.i_a, operands[n - late][0])
            if n < len(operands):
                for name, value in zip("bc", operands[n][1:], strict=False):
                    ctx.set(getattr(dut, f"i_{name}"), value)
            await ctx.tick()

    simulator = Simulator(Fragment.get(dut, platform))
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


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rows_with_third_operand(bits):
    operands = list(itertools.product(range(16), range(1 << bits), range(16)))
    dut = RowMultiplier(unsigned(4), unsigned(bits), adds=True)
    operands = [(a, b, c) for a, b, c in operands if a * b + c < 1 << (4 + bits)]
    assert simulate(dut, operands) == [a * b + c for a, b, c in operands]


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("width_c", [0, 3])
@pytest.mark.parametrize("width_b", [2, 3, 4, 5, 6])
def test_every_product_of_digits(width_b, width_c, levels):
    dut = DigitMultiplier(width_a=4, width_b=width_b, width_c=width_c, levels=levels)
    operands = list(itertools.product(range(16), range(1 << width_b), range(1 << width_c)))
    operands = [(a, b, c) for a, b, c in operands if a * b + c < 1 << (4 + width_b)]
    assert simulate(dut, operands, latency=dut.latency, late=1) == [a * b + c for a, b, c in operands]


@pytest.mark.parametrize("family", [None, "iCE40"])
@pytest.mark.parametrize(
    ("width_a", "width_b", "width_c"), [(24, 24, 12), (24, 24, 0), (20, 28, 16), (36, 22, 0), (20, 20, 16)]
)
def test_wide_operands(width_a, width_b, width_c, family):
    rng = np.random.default_rng(SEED)
    dut = PipelinedMultiplier(width_a=width_a, width_b=width_b, width_c=width_c)
    most_a, most_b, most_c = 2**width_a - 1, 2**width_b - 1, 2**width_c - 1
    operands = [(0, 0, most_c), (most_a, most_b, 0), (0, most_b, 0), (most_a, 1, most_c), (1, most_b, 0)]
    operands += [tuple(int(rng.integers(0, most + 1)) for most in (most_a, most_b, most_c)) for _ in range(200)]
    assert dut.offset_shift == width_a + width_b - 36
    expected = [a * b + (c << dut.offset_shift) for a, b, c in operands]
    operands = [x for x, y in zip(operands, expected, strict=True) if y < 1 << (width_a + width_b)]
    assert len(operands) > 100
    expected = [a * b + (c << dut.offset_shift) for a, b, c in operands]
    assert simulate(dut, operands, late=1, platform=SimpleNamespace(family=family)) == expected


@pytest.mark.parametrize("width", [18, 37, "24"])
def test_multiplier_refuses_width(width):
    with pytest.raises(ValueError, match=f"width_b must be an integer in 19 to 36, not {width!r}"):
        PipelinedMultiplier(width_a=24, width_b=width)


@pytest.mark.parametrize("width", [-1, "12", 13])
def test_multiplier_refuses_third_width(width):
    with pytest.raises(ValueError, match=f"width_c must be an integer in 0 to 12, not {width!r}"):
        PipelinedMultiplier(width_a=24, width_b=24, width_c=width)


def test_single_row_is_refused():
    with pytest.raises(ValueError, match="must have at least 2 bits, not 1"):
        RowMultiplier(signed(8), unsigned(1))
