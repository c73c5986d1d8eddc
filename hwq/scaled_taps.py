"""Convolutions and matrix products with block scales: their blocks of inputs as taps with scales of their own."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hwq.config import ArrayConfig
from hwq.isa import DESCRIPTOR
from hwq.mesh_parts import Part
from hwq.weights import MAX_TAP

_MAX_TAPS = next(field.range[1] for field in DESCRIPTOR if field.name == "taps_x")

TapOrder = tuple[dict[str, int], npt.NDArray[np.int8], npt.NDArray[np.uint8]]
"""Tap fields of a descriptor, the weights (K, channels) in the order they are read, and the taps' scales."""


def scaled_taps(part: Part, config: ArrayConfig) -> list[TapOrder]:
    """Return the way to read a part's taps, one or more to a block of its inputs; none if there are too many.

    The last tap of a pixel reads on where its block is shorter, with weights of zero. Where that would leave activation
    memory, or where kernels have several taps, whose padding may end there, all taps are as short as they must be.
    """
    assert part.block_scales is not None
    rows, columns, inputs, channels = part.weight.shape
    size = min(part.block_scales.size, inputs)
    span = max(n for n in range(1, min(size, MAX_TAP) + 1) if size % n == 0)
    count = -(-inputs // span)
    steps = zip((part.x.shape[0], *part.x.shape[2:]), (part.x.strides[0], *part.x.strides[2:]), strict=True)
    end = part.x.address + sum((n - 1) * stride for n, stride in steps) + count * span
    if inputs % span and (rows * columns > 1 or end > config.act_bytes):
        span = math.gcd(inputs, span)
        count = inputs // span
    loops = (
        (rows, part.x.strides[2] * part.dilations[0]),
        (columns, part.x.strides[3] * part.dilations[1]),
        (count, span),
    )
    (outer, outer_step), (inner, inner_step) = [(1, 0), (1, 0), *(loop for loop in loops if loop[0] > 1)][-2:]
    if max(outer, inner) > _MAX_TAPS:
        return []
    fields = {
        "taps_y": outer,
        "taps_x": inner,
        "span": span,
        "tap_x_step": inner_step,
        "tap_y_step": outer_step - (inner - 1) * inner_step,
    }
    matrix = np.zeros((rows, columns, count * span, channels), np.int8)
    matrix[:, :, :inputs] = part.weight
    scales = part.block_scales.scale[np.arange(count) * span // size]
    return [(fields, matrix.reshape(-1, channels), np.tile(scales, (rows * columns, 1)))]
