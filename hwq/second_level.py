"""Double quantization: the float scales of a weight's blocks as integers, times a float scale for each output."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwq.weights import SCALE_MAX

Float32 = npt.NDArray[np.float32]

_FLOAT_ROUNDING = 2.0**-21
"""A smaller relative change is that of a few roundings to float32."""


def second_level(scales: Float32, most: int = SCALE_MAX) -> tuple[npt.NDArray[np.uint8], Float32, float]:
    """Return the integers 0..most that stand for `scales`, the outputs' scales, and the largest relative change.

    Of the integers that an output's largest scale may become, the one is taken that leaves the least squared
    difference, and of equal ones the smallest. So scales that are small multiples of one number don't change.

    Parameters
    ----------
    scales : float32 (blocks, outputs), finite and at least 0
    most : int, 1..255

    Returns
    -------
    uint8 (blocks, outputs), float32 (outputs,), float
        ``integers * outputs' scales`` is about `scales`.
    """
    wanted = scales.astype(np.float64)
    top = wanted.max(axis=0)
    unit = np.where(top > 0, top, 1.0)
    best = np.full(len(top), np.inf)
    factors, level = np.zeros(wanted.shape, np.uint8), unit.astype(np.float32)
    for top_integer in range(1, most + 1):
        step = (unit / top_integer).astype(np.float32)
        integers = np.minimum(np.rint(wanted / step), most)
        difference = np.abs(integers * step - wanted)
        change = np.square(np.where(difference > _FLOAT_ROUNDING * wanted, difference, 0)).sum(axis=0)
        better = change < best
        best[better], level[better] = change[better], step[better]
        factors[:, better] = integers[:, better]
    changes = np.abs(factors * level.astype(np.float64) - wanted) / np.where(wanted > 0, wanted, 1.0)
    largest = float(changes.max())
    return factors, level, largest if largest > _FLOAT_ROUNDING else 0.0
