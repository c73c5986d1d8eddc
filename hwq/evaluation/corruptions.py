"""Corruptions of samples, in five severities, and samples of nothing the network was trained on.

As Hendrycks and Dietterich (2019) have them, for any range of values: strengths are shares of what the samples cover.
Those that have to do with neighbouring pixels are for images (N, C, H, W) only.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from hwq.ir import Array

SEVERITIES = (1, 2, 3, 4, 5)


def _noise(x: Array, strength: float, rng: np.random.Generator) -> Array:
    return x + rng.normal(0, strength, x.shape)


def _impulses(x: Array, strength: float, rng: np.random.Generator) -> Array:
    chance = rng.random(x.shape)
    return np.where(chance < strength / 2, 0.0, np.where(chance > 1 - strength / 2, 1.0, x))


def _brightness(x: Array, strength: float, rng: np.random.Generator) -> Array:
    return x + strength


def _contrast(x: Array, strength: float, rng: np.random.Generator) -> Array:
    mean = x.mean(axis=tuple(range(1, x.ndim)), keepdims=True)
    return mean + (x - mean) * (1 - strength)


def _blur(x: Array, strength: float, rng: np.random.Generator) -> Array:
    """Average over a Gaussian whose deviation is `strength` [share of the height]."""
    for axis in (2, 3):
        deviation = strength * x.shape[2]
        reach = max(int(np.ceil(3 * deviation)), 1)
        steps = np.arange(-reach, reach + 1)
        kernel = np.exp(-0.5 * np.square(steps / deviation))
        size = x.shape[axis]
        places = np.clip(np.arange(size)[:, np.newaxis] + steps, 0, size - 1)
        x = np.moveaxis((np.moveaxis(x, axis, -1)[..., places] * (kernel / kernel.sum())).sum(axis=-1), -1, axis)
    return x


def _pixelate(x: Array, strength: float, rng: np.random.Generator) -> Array:
    """Average over blocks with sides of `strength` [share of the height, the width]."""
    for axis in (2, 3):
        size = x.shape[axis]
        starts = np.arange(0, size, max(round(strength * size), 1))
        widths = np.diff(np.append(starts, size))
        means = np.moveaxis(np.add.reduceat(x, starts, axis=axis), axis, -1) / widths
        x = np.moveaxis(means.repeat(widths, axis=-1), -1, axis)
    return x


def _cover(x: Array, strength: float, rng: np.random.Generator) -> Array:
    """Put a grey square of `strength` of the area somewhere."""
    side = [max(round(np.sqrt(strength) * size), 1) for size in x.shape[2:]]
    out = x.copy()
    for image in out:
        top, left = (int(rng.integers(size - part + 1)) for size, part in zip(x.shape[2:], side, strict=True))
        image[:, top : top + side[0], left : left + side[1]] = 0.5
    return out


_Corruption = Callable[[Array, float, np.random.Generator], Array]

CORRUPTIONS: dict[str, tuple[_Corruption, tuple[float, ...], bool]] = {
    "noise": (_noise, (0.02, 0.05, 0.08, 0.12, 0.18), False),
    "impulses": (_impulses, (0.005, 0.01, 0.03, 0.06, 0.1), False),
    "brightness": (_brightness, (0.05, 0.1, 0.2, 0.3, 0.4), False),
    "contrast": (_contrast, (0.2, 0.4, 0.6, 0.75, 0.85), False),
    "blur": (_blur, (0.015, 0.025, 0.035, 0.05, 0.07), True),
    "pixelate": (_pixelate, (0.08, 0.12, 0.16, 0.2, 0.25), True),
    "cover": (_cover, (0.02, 0.05, 0.1, 0.2, 0.3), True),
}
"""By name: what it does, how strongly at each severity, and whether it is for images only."""

UNKNOWN = ("uniform noise", "shuffled samples")


def names(x: Array) -> list[str]:
    """Return the corruptions that samples `x` can have."""
    return [name for name, (_, _, images) in CORRUPTIONS.items() if not images or x.ndim == 4]


def corrupted(x: Array, name: str, severity: int, seed: int) -> Array:
    """Return samples corrupted, in their own dtype and range.

    Parameters
    ----------
    x : array (samples, ...)
    name : str
        Of `CORRUPTIONS`.
    severity : int
        1 to 5.
    seed : int
        Equal ones give equal samples.
    """
    change, strengths, _ = CORRUPTIONS[name]
    return _in_range(x, lambda share, rng: change(share, strengths[severity - 1], rng), f"{name} {severity}", seed)


def unknown(x: Array, name: str, seed: int) -> Array:
    """Return as many samples of `UNKNOWN` as `x` has, in its dtype and range."""
    if name == UNKNOWN[0]:
        return _in_range(x, lambda share, rng: rng.random(share.shape), name, seed)

    def shuffled(share: Array, rng: np.random.Generator) -> Array:
        return rng.permuted(share.reshape(len(share), -1), axis=1).reshape(share.shape)

    return _in_range(x, shuffled, name, seed)


def _in_range(x: Array, change: Callable[[Array, np.random.Generator], Array], name: str, seed: int) -> Array:
    """Return what `change` makes of samples brought to 0..1, brought back."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    low, high = float(x.min()), float(x.max())
    width = high - low if high > low else 1.0
    values = low + np.clip(change((x.astype(np.float64) - low) / width, rng), 0, 1) * width
    return values.astype(x.dtype) if x.dtype.kind == "f" else np.rint(values).astype(x.dtype)
