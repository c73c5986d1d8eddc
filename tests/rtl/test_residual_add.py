"""The residual add against hwq.fixed in Amaranth's simulator."""

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from hwq import fixed
from hwq.residual import AddParameters, fit_add
from rtl.residual_add import ResidualAdd

SEED = 20240614
CORNERS = [(a, b) for a in (-128, -127, -1, 0, 1, 127) for b in (-128, -127, -1, 0, 1, 127)]
LEAST, MOST = -(2**25), 2**25 - 1
PRODUCTS = [(a, b) for a in (-128, 0, 127) for b in (-65025, -65024, -257, 255, 65024, 65025)]
"""A byte, and what may take the second operand's place: the product of two."""


def simulate(pairs, p, lo, hi):
    dut = ResidualAdd()
    results = []

    async def bench(ctx):
        for name in ("factor_a", "factor_b", "offset", "shift"):
            ctx.set(getattr(dut, f"i_{name}"), getattr(p, name))
        ctx.set(dut.i_lo, lo)
        ctx.set(dut.i_hi, hi)
        for n in range(len(pairs) + ResidualAdd.LATENCY):
            if n >= ResidualAdd.LATENCY:
                results.append(ctx.get(dut.o))
            if n < len(pairs):
                ctx.set(dut.i_a, pairs[n][0])
                ctx.set(dut.i_b, pairs[n][1])
            await ctx.tick()

    simulator = Simulator(Fragment.get(dut, None))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def check(pairs, p, lo=-128, hi=127):
    a, b = np.array(pairs).T
    expected = fixed.requantize_add(a, b, p.factor_a, p.factor_b, p.offset, p.shift, lo, hi)
    assert simulate(pairs, p, lo, hi) == expected.tolist()


def random_pairs(rng, count):
    return [tuple(pair) for pair in rng.integers(-128, 128, (count, 2)).tolist()]


def test_latency_is_exact():
    assert simulate([(3, 4), (0, 0), (0, 0)], AddParameters(2**23, 2**24, 0, 23), -128, 127) == [11, 0, 0]


@pytest.mark.parametrize("offset", [-(2**39), 0, 2**39 - 1])
@pytest.mark.parametrize("factors", [(LEAST, LEAST), (MOST, MOST), (LEAST, MOST), (0, 0)])
def test_extreme_parameters(factors, offset):
    for shift in (1, 24, 31):
        check(CORNERS + PRODUCTS, AddParameters(*factors, offset, shift))


def test_ties_of_both_signs():
    check([(a, b) for a in range(-9, 10) for b in range(-3, 4)], AddParameters(2**23, 2**22, 0, 24))


def test_tie_band_edges():
    # One operand picks a half-integer, the offset walks across the band around it: 2**e units wide in octave e at
    # shift 24.
    for whole in (0, 1, 2, 3, 4, 5, 63, 64, 126):
        band = max(1 << whole.bit_length() >> 1, 1)
        for distance in (-band - 1, -band, -band + 1, -1, 0, 1, band - 1, band, band + 1):
            p = AddParameters(2**24, 0, 2**23 + distance, 24)
            check([(whole, 0), (whole + 1, 0), (-whole - 1, 0), (-whole - 2, 0)], p)


@pytest.mark.parametrize("shift", range(32))
def test_every_shift(shift):
    rng = np.random.default_rng(SEED + shift)
    scale = min(2.0**shift, MOST)
    p = AddParameters(round(0.6 * scale), round(-0.9 * scale), round(3.3 * scale), shift)
    check(CORNERS + random_pairs(rng, 40), p)
    products = [(a, b) for a, b in zip(rng.integers(-128, 128, 40), rng.integers(-65025, 65026, 40), strict=True)]
    check([(int(a), int(b)) for a, b in products], AddParameters(0, round(scale / 512), round(3.3 * scale), shift))


def test_narrow_bounds():
    check(CORNERS + [(n, 0) for n in range(-20, 20)], AddParameters(2**24, 2**23, 0, 24), lo=-7, hi=8)


def test_fitted_parameters():
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    for _ in range(8):
        a_scale, b_scale, c_scale = np.exp2(rng.uniform(-5, 0, 3)).astype(np.float32)
        a_zero, b_zero, c_zero = rng.integers(-128, 128, 3).tolist()
        p = fit_add(a_scale, a_zero, b_scale, b_zero, c_scale, c_zero)
        check(CORNERS + random_pairs(rng, 400), p)


def test_verilog():
    assert "module residual_add" in verilog.convert(ResidualAdd(), name="residual_add", strip_internal_attrs=True)
