# amaranth: UnusedElaboratable=no
"""The normalizer against exact rounding to 24 significant bits."""

import numpy as np
import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from rtl.normalizer import Normalizer

SEED = 20240612


def simulate(dut, numbers, hold):
    """Return significand, carry, shift and sign of every number, one a cycle."""
    out = []

    async def bench(ctx):
        ctx.set(dut.i_hold, hold)
        for n in range(len(numbers) + dut.latency):
            if n >= dut.latency:
                out.append(tuple(ctx.get(port) for port in (dut.o, dut.o_carry, dut.o_shift, dut.o_negative)))
            if n < len(numbers):
                ctx.set(dut.i, numbers[n])
            await ctx.tick()

    simulator = Simulator(Fragment.get(dut, None))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return out


def rounded(magnitude):
    """Return `magnitude` to 24 significant bits, ties to even."""
    unit = 1 << max(magnitude.bit_length() - 24, 0)
    whole, rest = divmod(magnitude, unit)
    return (whole + (2 * rest > unit or (2 * rest == unit and whole % 2 == 1))) * unit


def corners(width):
    """Return numbers next to every power of two, and next to ties of 24 significant bits."""
    near = [(1 << k) + d for k in range(width) for d in range(-3, 4)]
    near += [(v << k) + (1 << k >> 1) + d for k in range(9) for v in (2**23, 2**23 + 1, 2**24 - 1) for d in (-1, 0, 1)]
    return [s * n for n in near for s in (1, -1) if -(1 << (width - 1)) <= s * n < 1 << (width - 1)]


@pytest.mark.parametrize(("width", "hold"), [(26, 0), (26, 1), (32, 0), (32, 1), (43, 0)])
def test_significands(width, hold):
    rng = np.random.default_rng(SEED)
    most = 1 << (width - 1)
    numbers = [0, *corners(width)]
    numbers += [
        int(n) >> int(k) for n, k in zip(rng.integers(-most, most, 800), rng.integers(0, width, 800), strict=True)
    ]
    for number, (significand, carry, shift, negative) in zip(
        numbers, simulate(Normalizer(width), numbers, hold), strict=True
    ):
        unit = width - 25 + carry - shift
        assert significand * 2.0**unit == rounded(abs(number)), number
        assert negative == (number < 0), number
        if hold:
            assert shift <= 7
        elif number:
            assert significand >= 1 << 23, number


@pytest.mark.parametrize("width", [25, "32"])
def test_refuses_width(width):
    with pytest.raises(ValueError, match=f"width must be an integer above 25, not {width!r}"):
        Normalizer(width)
