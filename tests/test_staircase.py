"""Lines that are staircases, against every argument in range."""

import numpy as np
import pytest

from hwq.staircase import LEVELS, Line, Staircase, _roundest, fit, line_staircase, staircases

SEED = 5


def floored(multiplier, offset, divisor, most=LEVELS):
    """Return ``clip(floor((acc * multiplier + offset) / divisor), 0, most)``."""
    return lambda acc: np.clip((acc * multiplier + offset) // divisor, 0, most)


def one(function, low, high, most=LEVELS):
    (steps,) = staircases(function, np.array([low]), np.array([high]), most)
    return steps


def drawn(line, arguments, most=LEVELS):
    return np.clip((arguments * line.multiplier + line.offset) >> line.shift, 0, most)


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


@pytest.mark.parametrize("most", [1, 2, 15, LEVELS])
def test_fits_equal_the_floored_chain_on_every_argument(most):
    rng = np.random.default_rng(SEED)
    low, high = -3000, 4000
    arguments = np.arange(low, high + 1)
    for _ in range(40):
        divisor = int(rng.integers(2, 1 << 12))
        function = floored(int(rng.integers(1, 200)), int(rng.integers(-(1 << 18), 1 << 18)), divisor, most)
        line = fit(one(function, low, high, most))
        assert line is not None
        np.testing.assert_array_equal(drawn(line, arguments, most), function(arguments))


@pytest.mark.parametrize("thresholds", [[1], [0], [-1, 1], [-3, 0, 3]])
def test_line_through_the_origin_may_have_no_offset(thresholds):
    """An offset of 0 has more trailing zeros than any other."""
    steps = Staircase(-9, 9, 0, np.array(thresholds), len(thresholds))
    line = fit(steps)
    assert line is not None
    arguments = np.arange(-9, 10)
    np.testing.assert_array_equal(
        drawn(line, arguments, len(thresholds)), np.searchsorted(thresholds, arguments, side="right")
    )


@pytest.mark.parametrize(("least", "greatest", "roundest"), [(-5, 0, 0), (0, 9, 0), (-5, -2, -4), (5, 9, 8), (7, 7, 7)])
def test_roundest_offset(least, greatest, roundest):
    assert _roundest(least, greatest) == roundest


@pytest.mark.parametrize("level", [0, 7, LEVELS])
def test_constant_needs_no_multiplier(level):
    assert fit(Staircase(-20, 20, level, np.array([], np.int64))) == Line(0, level, 0)


def test_uneven_steps_have_no_fit():
    assert fit(Staircase(0, 100, 0, np.array([10, 20, 50, 60]), 4)) is None


def test_staircase_of_a_line_is_the_lines():
    line, low, high = Line(77, -1234, 7), -500, 700
    steps = line_staircase(line, low, high, LEVELS)
    np.testing.assert_array_equal(
        steps.base + np.searchsorted(steps.thresholds, np.arange(low, high + 1), side="right"),
        drawn(line, np.arange(low, high + 1)),
    )
