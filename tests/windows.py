"""Random sliding windows, whoever draws the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Below = Callable[[int, int], int]
"""Draws an integer from a start, included, to an end, excluded."""


def window(below: Below, size: int, pool: str | None = None) -> tuple[int, int, int, int, int]:
    """Return kernel, stride, dilation and both pads along an axis of `size`; `pool` is None, ``max`` or ``average``."""
    while True:
        kernel, stride, dilation = (below(1, end) for end in (6, 4, 3))
        dilation = 1 if pool == "average" else dilation
        reach = (kernel - 1) * dilation + 1
        most = {None: reach - 1, "max": kernel - 1, "average": 0}[pool]
        pads = [below(0, most + 1) for _ in range(2)]
        if reach <= size + sum(pads):
            return kernel, stride, dilation, pads[0], pads[1]


def windows(
    below: Below, sizes: Sequence[int], pool: str | None = None
) -> tuple[dict[str, list[int]], tuple[int, ...]]:
    """Return a sliding window's attributes over axes of `sizes`, and the size of what it makes."""
    axes = [window(below, size, pool) for size in sizes]
    kernels, strides, dilations, before, after = ([axis[index] for axis in axes] for index in range(5))
    attributes = {"kernel_shape": kernels, "strides": strides, "pads": before + after}
    if pool != "average":
        attributes["dilations"] = dilations
    made = tuple(
        (size + low + high - (kernel - 1) * dilation - 1) // stride + 1
        for size, (kernel, stride, dilation, low, high) in zip(sizes, axes, strict=True)
    )
    return attributes, made
