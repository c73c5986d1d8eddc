"""Integer sums over numpy arrays: windows and matrix products, exact and at the speed of float32 BLAS.

Images are (N, C, H, W). A product of integers is computed in float32 while every partial sum stays below 2**24, where
float32 holds integers exactly in whatever order they are added; longer sums are cut into such pieces, added in int32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hwq.ir import Array

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

_EXACT = 1 << 24


def pad_image(x: Array, pads: tuple[int, int, int, int], value: float) -> Array:
    """Surround the last two axes by (top, left, bottom, right) elements of `value`."""
    top, left, bottom, right = pads
    if not any(pads):
        return x
    height, width = x.shape[-2:]
    padded = np.full((*x.shape[:-2], height + top + bottom, width + left + right), value, x.dtype)
    padded[..., top : top + height, left : left + width] = x
    return padded


def window_taps(
    x: Array, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> Iterator[Array]:
    """Yield, for every position of a window in row-major order, what the windows over padded `x` hold there.

    Each is a view (..., out_height, out_width).
    """
    rows = (x.shape[-2] - (kernel[0] - 1) * dilations[0] - 1) // strides[0] + 1
    cols = (x.shape[-1] - (kernel[1] - 1) * dilations[1] - 1) // strides[1] + 1
    for ky in range(kernel[0]):
        top = ky * dilations[0]
        for kx in range(kernel[1]):
            left = kx * dilations[1]
            yield x[
                ...,
                top : top + (rows - 1) * strides[0] + 1 : strides[0],
                left : left + (cols - 1) * strides[1] + 1 : strides[1],
            ]


def columns(x: Array, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]) -> Array:
    """Return the windows of (N, C, H, W) as (C * kh * kw, N * out_height * out_width)."""
    taps = list(window_taps(x, kernel, strides, dilations))
    batch, channels, rows, cols = taps[0].shape
    result = np.empty((channels, len(taps), batch, rows, cols), x.dtype)
    for position, tap in enumerate(taps):
        result[:, position] = tap.transpose(1, 0, 2, 3)
    return result.reshape(channels * len(taps), -1)


def exact_pieces(weight: Array, x_max: int) -> list[slice]:
    """Cut the axis K of an integer (K, N) weight into pieces whose sums of products stay below 2**24.

    Parameters
    ----------
    weight : integer array (K, N)
    x_max : int
        Bound of the magnitude of what the weight is multiplied by, at most 255.
    """
    bounds = np.abs(weight.astype(np.int64)) * x_max
    if bounds.sum(axis=0).max(initial=0) < _EXACT:
        return [slice(0, len(bounds))]
    pieces, start, totals = [], 0, np.zeros(weight.shape[1], np.int64)
    for k, bound in enumerate(bounds):
        totals = totals + bound
        if totals.max(initial=0) >= _EXACT:
            pieces.append(slice(start, k))
            start, totals = k, bound
    return [*pieces, slice(start, len(bounds))]


def exact_matmul(a: Float32, b: Float32, pieces: list[slice]) -> Int32:
    """Return ``a @ b`` modulo 2**32 of integers held in float32, summed over each of `pieces` of the inner axis."""
    acc = (a[..., pieces[0]] @ b[..., pieces[0], :]).astype(np.int32)
    for piece in pieces[1:]:
        acc += (a[..., piece] @ b[..., piece, :]).astype(np.int32)
    return acc
