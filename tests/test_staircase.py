"""Floored requantizations as rounded ones, against every accumulator in range."""

import numpy as np
import pytest

from hwq.fixed import encode_multiplier, requantize
from hwq.staircase import Fit, Staircase, equals, fit, staircases

SEED = 5


def floored(multiplier, offset, divisor):
    """Return ``clip(floor((acc * multiplier + offset) / divisor), 0, 255)``."""
    return lambda acc: np.clip((acc * multiplier + offset) // divisor, 0, 255)


def one(function, low, high):
    (steps,) = staircases(function, np.array([low]), np.array([high]))
    return steps


def rounded(found, acc):
    scaled = (found.factor * acc + found.bias).astype(np.int32)
    return requantize(scaled, *encode_multiplier(found.multiplier), 0, 0, 255)


def test_staircase_by_hand():
    steps = one(floored(1, 0, 10), -25, 34)
    assert (steps.base, steps.thresholds.tolist()) == (0, [10, 20, 30])


def test_staircase_that_starts_above_zero():
    steps = one(floored(1, 50, 10), -25, 4)
    assert (steps.base, steps.thresholds.tolist()) == (2, [-20, -10, 0])


def test_staircase_that_jumps_over_levels():
    steps = one(floored(3, 0, 1), 0, 3)
    assert steps.thresholds.tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_staircase_of_one_argument():
    assert one(floored(1, 70, 10), 3, 3).thresholds.size == 0


def test_rows_are_tabulated_together():
    multiplier, offset = np.array([[3], [70]]), np.array([[11], [-400]])
    low, high = np.array([-5000, -300]), np.array([4000, 900])
    rows = staircases(floored(multiplier, offset, 64), low, high)
    for row, steps in enumerate(rows):
        alone = one(floored(multiplier[row, 0], offset[row, 0], 64), low[row], high[row])
        assert steps.base == alone.base
        np.testing.assert_array_equal(steps.thresholds, alone.thresholds)


@pytest.mark.parametrize("divisor", [1, 2, 3, 64, 1000])
def test_floored_quotient_needs_no_factor(divisor):
    function = floored(1, 0, divisor)
    found = fit(one(function, -9000, 70_000), [1])
    assert found is not None
    acc = np.arange(-9000, 70_001)
    np.testing.assert_array_equal(rounded(found, acc), function(acc))


def test_fits_equal_the_floored_chain_on_every_accumulator():
    rng = np.random.default_rng(SEED)
    factors = []
    for _ in range(60):
        function = floored(
            int(rng.integers(1, 2048)), int(rng.integers(-(10**6), 10**6)), 2 ** int(rng.integers(8, 19))
        )
        low, high = -int(rng.integers(1, 60_000)), int(rng.integers(1, 60_000))
        found = fit(one(function, low, high), range(1, 257))
        if found is not None:
            acc = np.arange(low, high + 1)
            np.testing.assert_array_equal(rounded(found, acc), function(acc))
            factors.append(found.factor)
    print(f"seed {SEED}: {len(factors)} of 60 fitted, factors {sorted(factors)}")
    assert len(factors) >= 50


@pytest.mark.parametrize("level", [0, 7, 255])
def test_constant(level):
    found = fit(one(lambda acc: np.full_like(acc, level), -5, 5), [1])
    assert found is not None
    assert rounded(found, np.arange(-5, 6)).tolist() == [level] * 11


@pytest.mark.parametrize("base", [0, 3, 254])
def test_single_threshold(base):
    def function(acc):
        return base + (acc >= -2)

    found = fit(one(function, -100, 100), [1])
    assert found is not None
    acc = np.arange(-100, 101)
    np.testing.assert_array_equal(rounded(found, acc), function(acc))


def test_uneven_steps_have_no_fit():
    thresholds = np.array([0, 10, 20, 90, 100, 110])
    assert fit(Staircase(-10, 200, 0, thresholds), range(1, 257)) is None


def test_sums_beyond_32_bits_have_no_fit():
    steps = one(floored(1, 0, 2**15), -(2**23), 2**23)
    assert fit(steps, [1]) is not None
    assert fit(steps, [256]) is None


def test_wrong_fits_are_told_apart():
    steps = one(floored(1, 0, 64), -1000, 9000)
    right = fit(steps, [1])
    assert right is not None
    assert equals(right, steps)
    for bias in (right.bias - 1, right.bias + 1):
        assert not equals(Fit(1, bias, right.multiplier), steps)
    assert not equals(Fit(1, right.bias, np.float32(right.multiplier * 1.01)), steps)
    assert not equals(right, Staircase(steps.low, 2 * steps.high, steps.base, steps.thresholds))
    assert not equals(right, Staircase(steps.low, steps.high, 1, steps.thresholds))


@pytest.mark.parametrize("lo", [-128, -8, -1])
def test_signed_levels_are_fitted(lo):
    """Steps of ``clip(RNE(acc * m + b), lo, hi)`` on both sides of 0, at every argument."""
    rng, low, high = np.random.default_rng(SEED), -700, 900
    hi, arguments = -lo - 1 if lo < -1 else 1, np.arange(low, high + 1)
    fitted = 0
    for _ in range(30):
        slope, offset = rng.uniform(0.3, 3) * (hi - lo) / (high - low), rng.uniform(lo, hi)
        levels = np.clip(np.rint(arguments * slope + offset), lo, hi).astype(int)
        thresholds = low + np.searchsorted(levels, np.arange(levels[0] + 1, levels[-1] + 1))
        steps = Staircase(low, high, int(levels[0]), thresholds, lo, hi)
        found = fit(steps, range(1, 128))
        if found is not None:
            fitted += 1
            scaled = (found.factor * arguments + found.bias).astype(np.int32)
            got = requantize(scaled, *encode_multiplier(found.multiplier), 0, lo, hi)
            np.testing.assert_array_equal(got, levels)
    assert fitted >= (30 if hi - lo < 100 else 20)


def test_jump_over_zero_needs_an_even_factor():
    """From -1 to 1 at 5: the sum 2 * acc - 9 has no value between -1/2 and 1/2."""
    steps = Staircase(-20, 20, -1, np.array([5, 5]), -1, 1)
    assert fit(steps, [1]) is None
    found = fit(steps, [1, 2])
    assert found is not None
    assert (found.factor, found.bias) == (2, -9)


@pytest.mark.parametrize("level", [-8, 0, 7])
def test_constant_is_a_fit_without_the_argument(level):
    found = fit(Staircase(-20, 20, level, np.array([], np.int64), -8, 7), [1])
    assert found == Fit(0, level, np.float32(1))
