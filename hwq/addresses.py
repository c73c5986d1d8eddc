"""Byte addresses a descriptor walks, in numpy: pixels of its feature maps, taps, strips. Bounds are the caller's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hwq import isa

Indices = npt.NDArray[np.int64]

ADDRESS_MASK = (1 << isa.ADDRESS_BITS) - 1
"""Addresses are sums modulo 2**ADDRESS_BITS."""


def pixel_addresses(d: Mapping[str, int], which: str) -> Indices:
    """Return the first byte address of every pixel of feature map `which` (ifm, res or ofm)."""
    y, x = np.divmod(np.arange(d["pixels"], dtype=np.int64), d["row_pixels"])
    x_step, y_step = d[f"{which}_x_step"], d[f"{which}_y_step"]
    row_step = y_step + (d["row_pixels"] - 1) * x_step
    return (d[f"{which}_base"] + x * x_step + y * row_step) & ADDRESS_MASK


def strip_grid(d: Mapping[str, int]) -> tuple[Indices, Indices, Indices]:
    """Return strip, row within the strip and column of every output of a DEPTHWISE layer in strips."""
    strip, rest = np.divmod(np.arange(d["strips"] * d["pixels"], dtype=np.int64), d["pixels"])
    column, row = np.divmod(rest, 2)
    exists = (row == 0) | (strip < d["strips"] - d["short_strip"])
    return strip[exists], row[exists], column[exists]


def strip_inputs(d: Mapping[str, int]) -> Indices:
    """Return the address of the first input pixel of every output."""
    strip, row, column = strip_grid(d)
    return (d["ifm_base"] + (2 * strip + row) * d["tap_y_step"] + column * d["ifm_x_step"]) & ADDRESS_MASK


def output_addresses(d: Mapping[str, int]) -> Indices:
    """Return the address of every output pixel's first byte, in the order of their numbers."""
    if not d["strips"]:
        return pixel_addresses(d, "ofm")
    strip, row, column = strip_grid(d)
    column_step = d["ofm_x_step"] + d["ofm_y_step"]
    return (d["ofm_base"] + strip * d["res_x_step"] + row * d["ofm_x_step"] + column * column_step) & ADDRESS_MASK


def tap_offsets(d: Mapping[str, int]) -> Indices:
    """Return every tap's byte offset from its pixel."""
    y, x = np.divmod(np.arange(d["taps_y"] * d["taps_x"], dtype=np.int64), d["taps_x"])
    return x * d["tap_x_step"] + y * (d["tap_y_step"] + (d["taps_x"] - 1) * d["tap_x_step"])
