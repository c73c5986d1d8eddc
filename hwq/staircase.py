"""Requantizing by RNE where a model floors: an exact fit of `hwq.fixed.requantize` to a staircase, or none.

A chain such as ``clip(floor((acc * m + b) / d), 0, 255)`` is a monotone step function of an integer accumulator, so
the least accumulators of its levels, at most 255 *thresholds*, say all about it. ``R(factor * acc + bias)`` is monotone
too: it is the same function wherever it reaches each level at that level's threshold and not one accumulator earlier.
This is checked in integers for every threshold, which proves a fit for all accumulators in range.

An integer bias alone shifts the steps by whole accumulators, where flooring asks for half a step: of the channels of
networks integerised by NEMO it fits some 4 in 100. A `factor` on the accumulator makes the bias as many times finer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwq.fixed import encode_multiplier, requantize
from hwq.ir import Array

Int64 = npt.NDArray[np.int64]

_INT32 = 1 << 31
_LEVEL_MAX = 255


@dataclass(frozen=True, slots=True)
class Staircase:
    """A monotone function of the integers `low` to `high`, with values in 0..255.

    Members
    -------
    low, high : int
        Least and greatest argument.
    base : int
        Value at `low`.
    thresholds : int64 array
        The least argument whose value is at least ``base + 1``, ``base + 2`` and so on to the value at `high`.
    """

    low: int
    high: int
    base: int
    thresholds: Int64


@dataclass(frozen=True, slots=True)
class Fit:
    """``R(factor * acc + bias)`` with float32 multiplier `multiplier`, zero point 0 and bounds 0 and 255."""

    factor: int
    bias: int
    multiplier: np.float32


def staircases(function: Callable[[Int64], Int64], low: Int64, high: Int64) -> list[Staircase]:
    """Tabulate monotone functions of one integer, one a row, by bisection of all levels together.

    Parameters
    ----------
    function : callable
        Takes arguments (rows, n) and returns values in 0..255, not decreasing along each row's arguments.
    low, high : int64 array (rows,)
        Range of each row's arguments, ``low <= high``.
    """
    first, last = (function(end[:, np.newaxis])[:, 0] for end in (low, high))
    levels = np.arange(1, 256)
    below = np.repeat(low[:, np.newaxis], levels.size, axis=1)
    reached = np.repeat(high[:, np.newaxis], levels.size, axis=1)
    while np.any(reached - below > 1):
        middle = (below + reached) >> 1
        at_least = function(middle) >= levels
        reached = np.where(at_least, middle, reached)
        below = np.where(at_least, below, middle)
    return [
        Staircase(int(low[row]), int(high[row]), int(first[row]), reached[row, first[row] : last[row]])
        for row in range(len(low))
    ]


def fit(steps: Staircase, factors: Iterable[int]) -> Fit | None:
    """Return the first fit for one of `factors`, in their order; None if there is none.

    With ``h = level - 1/2`` and ``r = 1 / multiplier``, every threshold T asks for
    ``factor * (T - 1) + bias < h * r < factor * T + bias``; of the level at `low` only the second half is asked, of the
    one above that at `high` only the first. For each bias that is an interval of r; the middle of the widest, as a
    float32 multiplier, is then proved or dropped.
    """
    if not steps.thresholds.size:
        return Fit(0, steps.base, np.float32(1))
    top = steps.base + steps.thresholds.size
    halves = np.arange(steps.base, top) + 0.5
    reached, reached_halves = steps.thresholds, halves
    missed, missed_halves = steps.thresholds - 1, halves
    if steps.base > 0:
        reached, reached_halves = np.append(reached, steps.low), np.append(halves, steps.base - 0.5)
    if top < _LEVEL_MAX:
        missed, missed_halves = np.append(missed, steps.high), np.append(halves, top + 0.5)
    for factor in factors:
        biases = _biases(steps, halves, factor)
        least = ((missed * factor + biases[:, np.newaxis]) / missed_halves).max(axis=1)
        most = ((reached * factor + biases[:, np.newaxis]) / reached_halves).min(axis=1)
        least = np.maximum(least, 0)
        best = int((most - least).argmax())
        if most[best] > least[best]:
            found = Fit(factor, int(biases[best]), np.float32(2 / (least[best] + most[best])))
            if equals(found, steps):
                return found
    return None


def _biases(steps: Staircase, halves: Array, factor: int) -> Int64:
    """Return the biases worth trying: those near the line through the first and the last threshold."""
    first, last = (int(end) * factor for end in (steps.thresholds[0], steps.thresholds[-1]))
    if halves.size == 1:  # any slope flat enough not to reach another level
        step = factor * (max(steps.high + 1 - steps.thresholds[0], steps.thresholds[0] - steps.low) + 1)
        slack = 1.0 * factor
    else:
        step = (last - first) / (halves[-1] - halves[0])
        # Each of the two thresholds lies up to `factor` above the line's crossing.
        slack = factor * (1 + 2 * halves[0] / (halves[-1] - halves[0])) + 2
    middle = halves[0] * step - first
    return np.arange(np.floor(middle - slack), np.ceil(middle + slack) + 1).astype(np.int64)


def equals(fit: Fit, steps: Staircase) -> bool:
    """Whether a fit is the staircase for every argument in its range, without wrapping 32 bits."""
    ends = [fit.factor * end + fit.bias for end in (steps.low, steps.high)]
    if max(map(abs, (*ends, fit.bias))) >= _INT32:
        return False
    mantissa, shift = encode_multiplier(fit.multiplier)

    def value(arguments: Int64) -> Int64:
        acc = (arguments * fit.factor + fit.bias).astype(np.int32)
        return requantize(acc, mantissa, shift, 0, 0, 255)

    levels = steps.base + 1 + np.arange(steps.thresholds.size)
    return (
        bool(np.all(value(steps.thresholds) >= levels) and np.all(value(steps.thresholds - 1) < levels))
        and value(np.array([steps.low]))[0] == steps.base
        and value(np.array([steps.high]))[0] == steps.base + steps.thresholds.size
    )
