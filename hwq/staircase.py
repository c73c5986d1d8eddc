"""Floored requantizations as the staircases they are: tabulated, fitted by integers, and split for the output path.

A chain such as ``clip(floor((acc * m + b) / d), 0, 255)`` is a monotone step function of an integer accumulator, so
the least accumulators of its levels, at most 255 *thresholds*, say all about it: another monotone function that reaches
each level at that level's threshold and not one accumulator earlier is the same, for all accumulators in range. Every
parameter below is proved so, in integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwq import fixed

Int64 = npt.NDArray[np.int64]

LEVELS = 255
"""Most steps of a staircase: outputs have 8 bits."""

_SHIFT_MAX = 48
"""Greatest shift of a fit: offsets stay within 58 bits."""

_NEIGHBOURS = 4
_BIAS_LIMIT = 1 << 21
_WHOLE_LIMIT = 1 << fixed.MULTIPLIER_BITS


@dataclass(frozen=True, slots=True)
class Staircase:
    """A monotone function of the integers `low` to `high`, with values in ``0..most``, `most` at most `LEVELS`.

    Members
    -------
    low, high : int
        Least and greatest argument.
    base : int
        Value at `low`.
    thresholds : int64 array
        The least argument whose value is at least ``base + 1``, ``base + 2`` and so on to the value at `high`.
    most : int
        Greatest value, at which the function is clamped, as it is at 0.
    """

    low: int
    high: int
    base: int
    thresholds: Int64
    most: int = LEVELS

    @property
    def top(self) -> int:
        """Value at `high`."""
        return self.base + self.thresholds.size

    def reached(self) -> list[tuple[int, int]]:
        """Return (argument, level) pairs: the argument's value, but for the clamp, is at least the level."""
        pairs = list(zip(self.thresholds.tolist(), range(self.base + 1, self.top + 1), strict=True))
        return pairs + [(self.low, self.base)] * (self.base > 0)

    def missed(self) -> list[tuple[int, int]]:
        """Return (argument, level) pairs: the argument's value, but for the clamp, is below the level."""
        pairs = list(zip((self.thresholds - 1).tolist(), range(self.base + 1, self.top + 1), strict=True))
        return pairs + [(self.high, self.top + 1)] * (self.top < self.most)


@dataclass(frozen=True, slots=True)
class Line:
    """``floor((acc * multiplier + offset) / 2**shift)``, multiplier 0 to 2**24 - 1."""

    multiplier: int
    offset: int
    shift: int


@dataclass(frozen=True, slots=True)
class Truncation:
    """Parameters of `hwq.fixed.requantize_truncate` and the bias before it, signed 22 bits."""

    bias: int
    mantissa: int
    offset: int
    shift: int


def staircases(function: Callable[[Int64], Int64], low: Int64, high: Int64, most: int = LEVELS) -> list[Staircase]:
    """Tabulate monotone functions of one integer, one a row, by bisection of all levels together.

    Parameters
    ----------
    function : callable
        Takes arguments (rows, n) and returns values in ``0..most``, not decreasing along each row's arguments.
    low, high : int64 array (rows,)
        Range of each row's arguments, ``low <= high``.
    most : int
        1 to `LEVELS`.
    """
    first, last = (function(end[:, np.newaxis])[:, 0] for end in (low, high))
    levels = np.arange(1, most + 1)
    below = np.repeat(low[:, np.newaxis], levels.size, axis=1)
    reached = np.repeat(high[:, np.newaxis], levels.size, axis=1)
    while np.any(reached - below > 1):
        middle = (below + reached) >> 1
        at_least = function(middle) >= levels
        reached = np.where(at_least, middle, reached)
        below = np.where(at_least, below, middle)
    return [
        Staircase(int(low[row]), int(high[row]), int(first[row]), reached[row, first[row] : last[row]], most)
        for row in range(len(low))
    ]


def offsets(steps: Staircase, multiplier: int, shift: int) -> tuple[int, int]:
    """Return the least and the greatest offset of the lines that are the staircase; the least is greater if none is.

    The staircase must have a level to reach and one to miss, which any with a threshold has.
    """
    least = max((level << shift) - multiplier * argument for argument, level in steps.reached())
    greatest = min((level << shift) - multiplier * argument for argument, level in steps.missed())
    return least, greatest - 1


def fit(steps: Staircase) -> Line | None:
    """Return a line that equals a staircase between its clamps, of those next to the one with most room to spare.

    None where there is none: such as where float32 has moved single thresholds off the line they lay on.
    """
    if not steps.thresholds.size:
        return Line(0, steps.base, 0)
    slope = _slope(steps)
    shift = min(int(fixed.MULTIPLIER_BITS - 1 - np.floor(np.log2(slope))), _SHIFT_MAX)
    nearest = round(slope * 2.0**shift)
    found, widest = None, 0
    for multiplier in range(max(nearest - _NEIGHBOURS, 1), min(nearest + _NEIGHBOURS + 1, _WHOLE_LIMIT)):
        least, greatest = offsets(steps, multiplier, shift)
        if greatest - least >= widest:
            found, widest = Line(multiplier, _roundest(least, greatest), shift), greatest - least + 1
    return found


def _slope(steps: Staircase) -> float:
    """Return the slope, up to `LEVELS` + 1, of the line with most room for its offset: a concave function's maximum."""
    (x_reached, reached), (x_missed, missed) = (np.array(p, float).T for p in (steps.reached(), steps.missed()))
    flat, steep = 0.0, LEVELS + 1.0
    while steep - flat > steep * 2.0**-40:
        slope = (flat + steep) / 2
        # The room grows with the slope where the tightest level to miss lies left of the tightest one to reach.
        tightest_reached = x_reached[np.argmax(reached - slope * x_reached)]
        tightest_missed = x_missed[np.argmin(missed - slope * x_missed)]
        if tightest_reached > tightest_missed:
            flat = slope
        else:
            steep = slope
    return max(steep, 2.0**-_SHIFT_MAX)


def _roundest(least: int, greatest: int) -> int:
    """Return the integer of a range with the most trailing zeros."""
    zeros = 0
    while greatest >> (zeros + 1) << (zeros + 1) >= least:
        zeros += 1
    return greatest >> zeros << zeros


def line_staircase(line: Line, low: int, high: int, most: int) -> Staircase:
    """Tabulate a line clamped to ``0..most`` over the arguments `low` to `high`."""

    def value(argument: int) -> int:
        return min(max((argument * line.multiplier + line.offset) >> line.shift, 0), most)

    base, top = value(low), value(high)
    levels = range(base + 1, top + 1)
    thresholds = [-((line.offset - (level << line.shift)) // line.multiplier) for level in levels]
    return Staircase(low, high, base, np.array(thresholds, np.int64), most)


def truncation(line: Line, steps: Staircase) -> Truncation | None:
    """Return parameters with which truncating equals `line` on all of `steps`, its staircase; None if there are none.

    The multiplier, scaled to 24 bits, is the mantissa; the offset becomes a bias, for its multiples of the mantissa,
    and units of ``2**fixed.OFFSET_SHIFT`` of the rest.
    """
    if not line.multiplier:  # base, at every sum that the bias makes positive
        bias = max(-steps.low, 0) if steps.base else 0
        found = Truncation(bias, 0, steps.base << (fixed.SHIFT_MIN - fixed.OFFSET_SHIFT), fixed.SHIFT_MIN)
        return found if _equals(found, steps) else None
    scale = min(fixed.MULTIPLIER_BITS - line.multiplier.bit_length(), fixed.SHIFT_MAX - line.shift)
    if line.shift + scale < fixed.SHIFT_MIN:
        return None
    mantissa, shift = line.multiplier << scale, line.shift + scale
    greatest = offsets(steps, mantissa, shift)[1] if steps.thresholds.size else line.offset << scale
    for total in (line.offset << scale, greatest):
        bias = total // mantissa
        found = Truncation(bias, mantissa, (total - bias * mantissa) >> fixed.OFFSET_SHIFT, shift)
        if _equals(found, steps):
            return found
    return None


def _equals(found: Truncation, steps: Staircase) -> bool:
    """Whether truncating gives the staircase's value at both ends of every one of its steps, hence everywhere."""
    ends = steps.low + found.bias, steps.high + found.bias
    if abs(found.bias) >= _BIAS_LIMIT or max(map(abs, ends)) >= 1 << 31:
        return False
    levels = steps.base + 1 + np.arange(steps.thresholds.size)
    arguments = np.concatenate([steps.thresholds, [steps.low, steps.high]])

    def value(argument: Int64) -> Int64:
        acc = (argument + found.bias).astype(np.int32)
        return fixed.requantize_truncate(acc, found.mantissa, found.offset, found.shift, 0, 0, steps.most)

    at = value(arguments)
    reaches, ends_right = np.all(at[:-2] >= levels), bool(at[-2] == steps.base and at[-1] == steps.top)
    return bool(reaches) and ends_right and bool(np.all(value(steps.thresholds - 1) < levels))
