# amaranth: UnusedElaboratable=no
"""The small requantizer against hwq.fixed, whose results other tests compare with ONNX Runtime's."""

from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from hwq import fixed
from rtl.small_requantizer import SmallRequantizer

SEED = 20240613
LEAST, MOST = -(2**23), 2**23 - 1


def simulate(acc, bias, mantissa, shift, zero_point, lo, hi, platform=None):
    """Results of one sum a cycle; multipliers come `LATE` cycles behind."""
    dut, results = SmallRequantizer(), []

    async def bench(ctx):
        for name, value in (("zero_point", zero_point), ("lo", lo), ("hi", hi)):
            ctx.set(getattr(dut, f"i_{name}"), value)
        for n in range(len(acc) + dut.LATENCY):
            if n >= dut.LATENCY:
                results.append(ctx.get(dut.o))
            if n < len(acc):
                ctx.set(dut.i_acc, int(acc[n]))
                ctx.set(dut.i_bias, int(bias[n]))
            if 0 <= (late := n - dut.LATE) < len(acc):
                ctx.set(dut.i_mantissa, int(mantissa[late]))
                ctx.set(dut.i_shift, int(shift[late]))
            await ctx.tick()

    simulator = Simulator(Fragment.get(dut, platform))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def check(acc, m, *, bias=0, zero_point=0, lo=-128, hi=127, platform=None):
    acc, m, bias = np.broadcast_arrays(np.asarray(acc, np.int64), np.asarray(m, np.float32), np.asarray(bias, np.int64))
    mantissa, shift = fixed.encode_multiplier(m)
    total = ((acc + bias + 2**23) % 2**24 - 2**23).astype(np.int32)
    expected = fixed.requantize(total, mantissa, shift, zero_point, lo, hi)
    assert simulate(acc, bias, mantissa, shift, zero_point, lo, hi, platform) == expected.tolist()


def test_latency_is_exact():
    check([1, 0, 0, 0], 100.0)


def test_ties_of_both_signs():
    check([1, -1, 3, -3, 5, -5, 253, -253, 255, -255, 257, -257], 0.5)
    check(np.arange(-300, 300), [0.5, 0.25] * 300)


def test_tie_band_edges():
    # 7 * m with m next to 1/14: float32 rounds the product to the tie, exact arithmetic doesn't
    acc, m = [], []
    for ratio in (1 / 14, 3 / 14, 1 / 2, 11 / 6, 255 / 6):
        for nudge in range(-3, 4):
            near = (np.float32(ratio).view(np.int32) + np.int32(nudge)).view(np.float32)
            acc += [3, 7, -7, 21, -21, 49, -49]
            m += [near] * 7
    check(acc, m)


def test_both_edges_of_the_tie_band_to_the_unit():
    # acc * m = n * 2**(octave - 24) with n odd: exactly between two float32 numbers, one of them the tie at one half,
    # above an even and above an odd integer; small factors of n make the accumulator, the rest the multiplier
    acc, m = [], []
    for octave in range(8):
        for integer in (1 << octave, (2 << octave) - 1):
            for edge in (-1, 1):
                n = (integer << (24 - octave)) + (1 << (23 - octave)) + edge
                for a in (a for a in range(1, 4000, 2) if n % a == 0):
                    near = np.float32((n // a) * 2.0 ** (octave - 24))
                    if int(near * 2.0 ** (24 - octave)) == n // a:
                        acc += [a, -a]
                        m += [near, near]
                        break
    assert len(acc) > 20
    check(acc, m)


def test_last_bits_of_the_product_count():
    # above an even integer and half, half of float32's last bit, which alone would be a tie, and less than 2**-13 of it
    acc, m = [], []
    for octave in range(1, 8):
        n = ((1 << octave) << (24 - octave)) + (1 << (23 - octave)) + 1 << 20
        for a in range((1 << 20) + 1, 1 << 21, 2):
            mantissa = n // a + 1
            if a * mantissa - n < 1 << 8 and mantissa < 1 << 24:
                acc += [a, -a]
                m += [np.float32(mantissa * 2.0 ** (octave - 44))] * 2
                break
    assert len(acc) == 14
    check(acc, m)


def test_extremes_of_the_sum_and_every_shift():
    corners = [0, 1, -1, LEAST, LEAST + 1, MOST, MOST - 1, *(s << k for k in range(23) for s in (1, -1))]
    for exponent in range(-42, 13):
        for mantissa in (1.0, np.float32(2) - np.float32(2**-23)):
            check(corners, np.float32(mantissa * 2.0**exponent))
    check(corners, 0.0)


def test_sum_with_bias_wraps():
    check([LEAST, MOST, 5, -5], 2.0**-17, bias=MOST)
    check([LEAST, MOST, 5, -5], 2.0**-17, bias=LEAST)


@pytest.mark.parametrize(
    ("zero_point", "lo", "hi"), [(-128, -128, 127), (127, -128, 127), (2, -7, 8), (-100, -20, 120)]
)
@pytest.mark.parametrize("family", [None, "iCE40"])
def test_random(zero_point, lo, hi, family):
    rng = np.random.default_rng(SEED)
    m = np.exp2(rng.uniform(-24, 4, 150)).astype(np.float32).repeat(10)
    # half of them as near to a half-integer as they can be
    target = (rng.integers(0, 300, m.size) + 0.5) * rng.choice([-1.0, 1.0], m.size)
    near = np.clip(np.rint(target / m.astype(np.float64)) + rng.integers(-1, 2, m.size), LEAST, MOST).astype(np.int64)
    anywhere = (rng.integers(0, 2**23, m.size) >> rng.integers(0, 23, m.size)) * rng.choice([-1, 1], m.size)
    total = np.where(rng.random(m.size) < 0.7, near, anywhere)
    bias = rng.integers(-(2**20), 2**20, m.size)
    acc = (total - bias + 2**23) % 2**24 - 2**23
    check(acc, m, bias=bias, zero_point=zero_point, lo=lo, hi=hi, platform=SimpleNamespace(family=family))
