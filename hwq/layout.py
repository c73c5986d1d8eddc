"""Where the elements of a tensor lie in activation memory: strided views, and loop nests over several of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class View:
    """A tensor in activation memory: element (i, j, ...) is the byte at ``address + i * strides[0] + ...``.

    A uint8 element u is stored as the signed byte u - 128; int8 as it is.

    Members
    -------
    address : int
        Byte address of element (0, 0, ...).
    shape : tuple of int
    strides : tuple of int
        Bytes; 0 repeats one element.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def dense(cls, address: int, shape: Sequence[int]) -> View:
        """Return the view of a row-major tensor without gaps."""
        strides = [1] * len(shape)
        for axis in range(len(shape) - 2, -1, -1):
            strides[axis] = strides[axis + 1] * shape[axis + 1]
        return cls(address, tuple(shape), tuple(strides))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def transpose(self, perm: Sequence[int]) -> View:
        """Return the view with its axes permuted."""
        return View(self.address, tuple(self.shape[i] for i in perm), tuple(self.strides[i] for i in perm))

    def reshape(self, shape: Sequence[int]) -> View | None:
        """Return the view with the same row-major elements under `shape`, or None where strides can't express it.

        >>> View(0, (4, 6), (8, 1)).reshape((2, 2, 6))
        View(address=0, shape=(2, 2, 6), strides=(16, 8, 1))
        >>> View(0, (4, 6), (8, 1)).reshape((24,)) is None
        True
        """
        probe = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), self.shape, self.strides, writeable=False)
        try:
            alias = np.reshape(probe, tuple(shape), copy=False)
        except ValueError:
            return None
        return View(self.address, alias.shape, alias.strides)

    def slice(self, axis: int, start: int, size: int, step: int = 1) -> View:
        """Return the `size` elements ``start, start + step, ...`` along `axis`."""
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        strides = (*self.strides[:axis], self.strides[axis] * step, *self.strides[axis + 1 :])
        return View(self.address + start * self.strides[axis], shape, strides)

    def broadcast(self, shape: Sequence[int]) -> View:
        """Return the view repeated to `shape` by numpy's rules."""
        pad = len(shape) - len(self.shape)
        strides = [0] * pad + [0 if n == 1 else s for n, s in zip(self.shape, self.strides, strict=True)]
        return View(self.address, tuple(shape), tuple(strides))

    def offsets(self) -> npt.NDArray[np.int64]:
        """Return the byte address of every element, in the tensor's shape."""
        out = np.full(self.shape, self.address, np.int64)
        for axis, (n, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            out += (np.arange(n) * stride).reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
        return out


ViewChain = tuple[tuple[str, tuple[int, ...]], ...]
"""``("reshape", shape)``, ``("transpose", perm)`` and ``("slice", (axis, start, size))``, one after another."""


def follow(chain: ViewChain, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `value` as `chain` views it.

    >>> follow((("reshape", (2, 3)), ("slice", (1, 1, 2))), np.arange(6))
    array([[1, 2],
           [4, 5]])
    """
    for kind, argument in chain:
        if kind == "transpose":
            value = value.transpose(argument)
        elif kind == "reshape":
            value = value.reshape(argument)
        else:
            axis, start, size = argument
            value = value[(slice(None),) * axis + (slice(start, start + size),)]
    return value


@dataclass(frozen=True)
class Nest:
    """A loop over rows and pixels of `channels` consecutive bytes, at the same time in several views.

    Members
    -------
    rows, columns, channels : int
        Trip counts; `channels` bytes are consecutive in every view.
    addresses, row_strides, column_strides : tuple of int
        One a view [byte].
    """

    rows: int
    columns: int
    channels: int
    addresses: tuple[int, ...]
    row_strides: tuple[int, ...]
    column_strides: tuple[int, ...]


def nests(views: Sequence[View]) -> list[Nest]:
    """Return loop nests that together visit every element of `views` (all of one shape) once, as few as possible.

    Axes along which every view has stride 1 become the channels, axes that every view can merge are merged, the two
    longest that are left become loops, and the rest is unrolled.
    """
    shape = views[0].shape
    axes = [(n, tuple(v.strides[i] for v in views)) for i, n in enumerate(shape) if n > 1]
    # outermost first: by the last view's stride, the one that is written
    axes.sort(key=lambda axis: axis[1][::-1], reverse=True)
    merged: list[tuple[int, tuple[int, ...]]] = []
    for n, strides in axes:
        if merged and all(outer == n * inner for outer, inner in zip(merged[-1][1], strides, strict=True)):
            merged[-1] = (merged[-1][0] * n, strides)
        else:
            merged.append((n, strides))
    channels = merged.pop()[0] if merged and set(merged[-1][1]) == {1} else 1
    loops = sorted(sorted(range(len(merged)), key=lambda i: (merged[i][0], i))[-2:])
    once = (1, (0,) * len(views))
    (rows, row_strides), (columns, column_strides) = [once] * (2 - len(loops)) + [merged[i] for i in loops]
    merged = [axis for i, axis in enumerate(merged) if i not in loops]
    out = []
    for index in itertools.product(*(range(n) for n, _ in merged)):
        addresses = tuple(
            view.address + sum(i * strides[v] for i, (_, strides) in zip(index, merged, strict=True))
            for v, view in enumerate(views)
        )
        out.append(Nest(rows, columns, channels, addresses, row_strides, column_strides))
    return out
