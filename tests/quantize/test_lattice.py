"""The lattice: who is on it needs no float32, and our scales are on it."""

from fractions import Fraction

import numpy as np
import pytest

from hwq.multipliers import on_lattice
from hwq.quantize.lattice import activation, pool_scale, weight_scales


def nearest_even(value: Fraction) -> int:
    return round(value)  # Python's rounds ties to even


def float32_requantized(acc, m):
    """ONNX Runtime's formula, in float32."""
    return np.rint(acc.astype(np.float32) * np.float32(m))


def accumulators(rng, m):
    near_ties = ((np.arange(-300, 300) + 0.5) / m).astype(np.int64)
    acc = np.concatenate([near_ties, near_ties + 1, near_ties - 1, rng.integers(-(1 << 31), 1 << 31, 500)])
    return np.clip(acc, -(1 << 31), (1 << 31) - 1).astype(np.int32)


def test_on_the_lattice_one_rounding_of_the_exact_product_is_enough():
    rng = np.random.default_rng(0)
    for mantissa in [1, 2, 3, 77, 255, 4095, 65535, *rng.integers(1, 1 << 16, 30)]:
        m = np.float32(int(mantissa) * 2.0**-16)
        assert on_lattice(m)
        acc = accumulators(rng, float(m))
        exact = [nearest_even(Fraction(int(a) * int(mantissa), 1 << 16)) for a in acc]
        got = np.clip(float32_requantized(acc, m), -255, 255)
        np.testing.assert_array_equal(got, np.clip(exact, -255, 255))


def test_off_the_lattice_it_is_not():
    rng = np.random.default_rng(1)
    differ = 0
    for mantissa in rng.integers(1 << 23, 1 << 24, 40):
        m = np.float32(int(mantissa) * 2.0**-31)
        assert on_lattice(m) == (int(mantissa) % (1 << 15) == 0)
        acc = accumulators(rng, float(m))
        exact = [nearest_even(Fraction(int(a) * int(mantissa), 1 << 31)) for a in acc]
        differ += np.count_nonzero(np.clip(float32_requantized(acc, m), -255, 255) != np.clip(exact, -255, 255))
    assert differ > 0


@pytest.mark.parametrize("m", [0.0, 2.0**-17, 1.5 * 2.0**-16])
def test_what_is_not_a_multiple_is_off(m):
    assert not on_lattice(np.float32(m))


def test_weight_scales_reach_the_lattice():
    rng, reached = np.random.default_rng(2), []
    for _ in range(200):
        x, y = (np.float32(value) for value in np.exp2(rng.uniform(-9, 0, 2)))
        least = np.exp2(rng.uniform(-12, -3, 64))
        least[:2] = 0, 1e-12
        scales = weight_scales(x, y, least)
        assert scales.dtype == np.float32
        reached += [Fraction(float(m)) * (1 << 16) % 1 == 0 for m in (x * scales) / y]
        assert (scales > 0).all()
        assert (scales >= least * (1 - 2e-6)).all()
        step = 2.0**-16 * float(y) / float(x)
        assert (scales <= least * (1 + 1 / 16) + 6 * step).all()
    assert np.mean(reached) > 0.99


def test_arbitrary_scales_do_not():
    rng = np.random.default_rng(2)
    x, y, w = (np.exp2(rng.uniform(-9, 0, 200)).astype(np.float32) for _ in range(3))
    assert on_lattice(x * w / y).mean() < 0.05


def test_average_scales_reach_the_lattice():
    rng = np.random.default_rng(3)
    for count in (1, 4, 49, 64, 100):
        for _ in range(20):
            x = np.float32(np.exp2(rng.uniform(-9, 0)))
            least = float(x) * rng.uniform(0.02, 1)
            y = pool_scale(x, count, least)
            assert Fraction(float(x / (y * np.float32(count)))) * (1 << 16) % 1 == 0
            assert least * (1 - 2e-6) <= y <= least * 1.2


def test_activations_have_even_zero_points_and_the_least_scale():
    rng = np.random.default_rng(4)
    cases = [(0.0, 1.0), (-1.0, 0.0), (-1.0, 1.0), (0.0, 255.0), *rng.uniform((-3, 0), (0, 3), (50, 2)).tolist()]
    for low, high in cases:
        scale, zero = activation(low, high)
        assert zero % 2 == 0
        assert 0 <= zero <= 255
        assert (0 - zero) * float(scale) <= low * (1 - 1e-6)
        assert (255 - zero) * float(scale) >= high * (1 - 1e-6)
        needed = [max(high / (255 - z), -low / z if z else (0 if low == 0 else np.inf)) for z in range(0, 256, 2)]
        assert scale == np.float32(min(needed))
    assert activation(0.0, 0.0) == (1, 0)
