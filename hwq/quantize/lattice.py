"""Scales under which the requantizer is one integer product and one rounding shift: `hwq.multipliers.on_lattice`.

Weight scales have the freedom to reach it, and so has what an average is quantized to.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwq.multipliers import LATTICE_SHIFT, average_multiplier, layer_multiplier

_ULPS = (0, 1, -1, 2, -2, 3, -3)
_STEPS = 256
"""Lattice points tried, at most."""

_NEAR = 4
"""Lattice points always tried, however much greater they make a scale."""

_GROWTH = 1 / 16
"""What else a scale may grow by to reach the lattice: a tenth of a bit."""

Float32 = npt.NDArray[np.float32]


def activation(low: float, high: float, bits: int = 8) -> tuple[np.float32, int]:
    """Return the least scale, and its even zero point, with which `bits` unsigned cover [low, high], 0 in it.

    Even, because an Add that rounds after adding an odd zero point puts its ties elsewhere than the array's adder.
    """
    if high <= low:
        return np.float32(1), 0
    top = (1 << bits) - 1
    zeros = np.arange(0, top, 2)
    above = high / (top - zeros)
    below = np.full(zeros.shape, np.inf if low < 0 else 0.0)
    np.divide(-low, zeros, out=below, where=zeros > 0)
    scales = np.maximum(above, below)
    best = int(np.argmin(scales))
    return max(np.float32(scales[best]), np.finfo(np.float32).tiny), int(zeros[best])


def weight_scales(x_scale: np.float32, y_scale: np.float32, least: npt.ArrayLike) -> Float32:
    """Return weight scales not below `least`, but for rounding, whose multipliers are on the lattice.

    Each belongs to the first lattice point that any scale reaches. Where float32 rounds away from all points near, it
    is `least` itself, and the channel needs the requantizer's full path.

    Parameters
    ----------
    x_scale, y_scale : float32
        Of the layer's input and output.
    least : float array (O,)
        At least 0; 0 gives the least multiplier.
    """
    least = np.asarray(least, np.float64)
    ratio = float(x_scale) / float(y_scale)
    first = np.maximum(np.ceil(np.ldexp(least * ratio, LATTICE_SHIFT) * (1 - 1e-6)), 1)
    found = np.zeros(least.shape, np.float32)
    for step in range(_STEPS):
        wanted, near = np.ldexp(first + step, -LATTICE_SHIFT), step <= _NEAR + _GROWTH * first
        for scale in _neighbours(wanted / ratio):
            reached = layer_multiplier(x_scale, scale, y_scale) == wanted
            found = np.where((found == 0) & reached & near, scale, found)
        if ((found > 0) | ~near).all():
            break
    return np.where(found > 0, found, np.maximum(least, np.finfo(np.float32).tiny)).astype(np.float32)


def pool_scale(x_scale: np.float32, count: int, least: float) -> np.float32:
    """Return an output scale, not below `least` but for rounding, whose average of `count` values is on the lattice.

    Where no multiplier is that small, it is the one of the lattice's least point.
    """
    greatest = max(int(np.ldexp(float(x_scale) / (least * count), LATTICE_SHIFT) * (1 + 1e-6)), 1)
    for mantissa in range(greatest, max(greatest - _STEPS, 0), -1):
        for scale in _neighbours(np.ldexp(float(x_scale), LATTICE_SHIFT) / (mantissa * count)):
            if average_multiplier(x_scale, np.float32(scale), count) == np.ldexp(float(mantissa), -LATTICE_SHIFT):
                return np.float32(scale)
    return np.float32(least)


def _neighbours(values: npt.ArrayLike) -> list[Float32]:
    """Return the float32 numbers next to `values`, nearest first."""
    bits = np.asarray(values, np.float32).view(np.int32)
    return [(bits + np.int32(ulps)).view(np.float32) for ulps in _ULPS]
