"""Tensors of 4 bits as activation memory holds them: channels 2j and 2j + 1 in the low and high half of a byte.

A half is a signed number, the tensor's value less its *label*: 0 for -8..7, 8 for 0..15. Of an odd number of channels
the last high half is spare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LOW, HIGH = -8, 7
"""Range of a half."""


def label(low: int, high: int) -> int | None:
    """Return an even label under which values in `low` to `high` fit in a half, None if there is none.

    Even, since rounding to even commutes with the addition of no other numbers.
    """
    least = -(-(high - HIGH) // 2) * 2
    return least if low - least >= LOW else None


def channel_axis(shape: Sequence[int]) -> int:
    """Return the axis of a tensor's channels: the second of an image, the last of anything else."""
    return 1 if len(shape) == 4 else len(shape) - 1


def packed_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the bytes that hold a tensor of `shape`."""
    axis = channel_axis(shape)
    return (*shape[:axis], -(-shape[axis] // 2), *shape[axis + 1 :])


def split(values: Array, axis: int = -1) -> Array:
    """Return the numbers that the halves of bytes hold, twice as many along `axis`.

    >>> split(np.array([0x21, -1], np.int8))
    array([ 1,  2, -1, -1], dtype=int8)
    """
    along = np.moveaxis(values, axis, -1)
    halves = np.stack([along << 4 >> 4, along >> 4], axis=-1)
    return np.moveaxis(halves.reshape(*along.shape[:-1], -1), -1, axis)


def join(values: Array, axis: int = -1) -> Array:
    """Return the bytes whose halves hold the low 4 bits of `values`, half as many along `axis`; a spare half is 0."""
    along = np.moveaxis(values, axis, -1)
    even = along[..., 0::2] & 15
    odd = np.zeros_like(even)
    odd[..., : along.shape[-1] // 2] = along[..., 1::2]
    return np.moveaxis(even | odd << 4, -1, axis)
