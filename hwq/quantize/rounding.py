"""Weights to integers: to the nearest, or so that the layer's sums change least on what it will really see.

The second is GPTQ (Frantar et al., 2023) on the layer's own moments, with sweeps over single weights after it. Its
inputs are those of the quantized network so far and its sums those of the float network, so that a layer also makes up
for the layers before it. Rows are output channels, (G, R, K) those of each group: `Moments.xx` is theirs in common.
"""

from __future__ import annotations

import numpy as np

from hwq.ir import Array
from hwq.quantize.statistics import Moments

DAMPING = 0.01
"""Share of the mean variance that is added to every one: what was never seen isn't known to be 0."""

SHARES = np.linspace(0.4, 1.0, 31)
"""Parts of a row's largest magnitude that the largest integer may stand for."""

_SWEEPS = 8


def levels(bits: int) -> Array:
    """Return the integers that a weight of `bits` can be, ascending; of 8 bits the same on both sides of 0."""
    greatest = (1 << (bits - 1)) - 1
    return np.arange(-greatest - (bits < 8), greatest + 1)


def rounded(values: Array, allowed: Array) -> Array:
    """Return each of `values` as the nearest of the integers `allowed`, ascending; ties go to even where all are."""
    if len(allowed) == allowed[-1] - allowed[0] + 1:
        return np.clip(np.rint(values), allowed[0], allowed[-1])
    return allowed[np.searchsorted((allowed[1:] + allowed[:-1]) / 2, values)].astype(np.float64)


def nearest(weight: Array, scale: Array, allowed: Array) -> Array:
    """Return ``weight / scale`` as the nearest of the integers `allowed`.

    Parameters
    ----------
    weight : float array (..., K)
    scale : float array (...) or (..., K)
        Of rows, or of single weights.
    """
    return rounded(weight / spread(scale, weight), allowed)


def spread(scale: Array, weight: Array) -> Array:
    """Return scales of rows, (...), or of weights, (..., K), as those of weights."""
    return np.broadcast_to(scale if scale.ndim == weight.ndim else scale[..., np.newaxis], weight.shape)


def plain_scales(weight: Array, bits: int) -> Array:
    """Return the least scales with which no weight of a row, (..., K), is clamped."""
    return np.abs(weight).max(axis=-1) / levels(bits)[-1]


def best_scales(weight: Array, bits: int, covariance: Array) -> Array:
    """Return, for every row, the scale whose rounding to nearest changes the sums least.

    Parameters
    ----------
    weight : float array (G, R, K)
    covariance : float array (G, K, K)
        Of the inputs.
    """
    largest = plain_scales(weight, bits)
    largest = np.where(largest > 0, largest, 1.0)
    errors = []
    for share in SHARES:
        scale = share * largest
        change = nearest(weight, scale, levels(bits)) * scale[..., np.newaxis] - weight
        errors.append(((change @ covariance) * change).sum(axis=-1))
    last = len(SHARES) - 1 - np.argmin(np.array(errors)[::-1], axis=0)  # the greatest of equals
    return plain_scales(weight, bits) * SHARES[last]


def damped(covariance: Array) -> Array:
    """Return a covariance, (G, K, K), with `DAMPING` on its diagonal: it has an inverse, even where nothing varies."""
    more = DAMPING * np.diagonal(covariance, axis1=1, axis2=2).mean(axis=1)
    more = np.where(more > 0, more, 1.0)
    return covariance + more[:, np.newaxis, np.newaxis] * np.eye(covariance.shape[-1])


def refit(weight: Array, moments: Moments) -> Array:
    """Return float weights, (G, R, K), whose sums of the inputs there are come nearest to the wanted ones.

    Ridge regression towards `weight`: where the inputs say little, it stays.
    """
    inverse = np.linalg.inv(damped(moments.xx))
    residue = moments.yx - weight @ moments.xx
    return weight + residue @ inverse


def fitted(weight: Array, scale: Array, allowed: Array, covariance: Array) -> Array:
    """Return integers, (G, R, K), of those `allowed`, whose products with `scale` change the sums of `weight` little.

    Scales are those of rows, (G, R), or of single weights, (G, R, K).

    GPTQ: weight after weight is rounded, and the error it makes is taken up by those still to come. Then weights change
    one at a time, as long as each change alone lowers the error.
    """
    covariance, scale = damped(covariance), spread(scale, weight)
    factor = np.linalg.cholesky(np.linalg.inv(covariance)).swapaxes(1, 2)
    rest, values = weight.copy(), np.zeros_like(weight)
    for k in range(weight.shape[-1]):
        values[..., k] = rounded(rest[..., k] / scale[..., k], allowed)
        error = (rest[..., k] - values[..., k] * scale[..., k]) / factor[:, k, k, np.newaxis]
        rest[..., k:] -= error[..., np.newaxis] * factor[:, np.newaxis, k, k:]
    slope = (values * scale - weight) @ covariance
    for _ in range(_SWEEPS):
        moved = False
        for k in range(weight.shape[-1]):
            wanted = values[..., k] - slope[..., k] / (covariance[:, k, k, np.newaxis] * scale[..., k])
            step = rounded(wanted, allowed) - values[..., k]
            if step.any():
                moved = True
                values[..., k] += step
                slope += (step * scale[..., k])[..., np.newaxis] * covariance[:, np.newaxis, k]
        if not moved:
            break
    return values
