"""Double quantization: the float scales of a weight's blocks as integers, times a float scale for each output."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwq.weights import SCALE_MAX

Float32 = npt.NDArray[np.float32]


def second_level(scales: Float32, most: int = SCALE_MAX) -> tuple[npt.NDArray[np.uint8], Float32, float]:
    """Return the integers 0..most that stand for `scales`, the outputs' scales, and the largest relative change.

    Of the integers that an output's largest scale may become, the one is taken that leaves the least squared
    difference, and of equal ones the smallest. So scales that are small multiples of one number don't change at all.

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
    for largest in range(1, most + 1):
        step = (unit / largest).astype(np.float32)
        integers = np.minimum(np.rint(wanted / step), most)
        change = np.square(integers * step - wanted).sum(axis=0)
        better = change < best
        best[better], level[better] = change[better], step[better]
        factors[:, better] = integers[:, better]
    changes = np.abs(factors * level.astype(np.float64) - wanted)
    return factors, level, float((changes / np.where(wanted > 0, wanted, 1.0)).max())
