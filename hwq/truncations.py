"""Floored requantizations of whole layers: the output path's parameters, channel by channel."""

from __future__ import annotations

import functools

import numpy as np

from hwq import ir, nibbles
from hwq.staircase import Line, Truncation, line_staircase, truncation


def truncations(op: ir.Conv | ir.Gemm, graph: ir.Graph, label: int | None = None) -> list[Truncation] | None:
    """Return the parameters, for each channel, that make the output path equal `op.floor` for all sums, or None.

    They are for the array's own sums: of stored bytes times weights, without `op.bias`, or of stored halves of bytes
    where these have a `label`. Zero point is `op.lo`.
    """
    assert op.floor is not None
    return _truncations(op, graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]], label)


@functools.lru_cache(maxsize=64)
def _truncations(op: ir.Conv | ir.Gemm, x: ir.Tensor, y: ir.Tensor, label: int | None) -> list[Truncation] | None:
    assert op.floor is not None
    channels = op.weight.T if isinstance(op, ir.Gemm) else op.weight
    weight = channels.reshape(len(channels), -1).astype(np.int64) - op.weight_zero_point.astype(np.int64)[:, None]
    least, greatest = (-128, 127) if label is None else (nibbles.LOW, nibbles.HIGH)
    if label is None:
        label = 128 if x.dtype == "uint8" else 0
    low = (weight * np.where(weight < 0, greatest, least)).sum(axis=1)
    high = (weight * np.where(weight < 0, least, greatest)).sum(axis=1)
    bias = op.bias.astype(np.int64) - (x.zero_point - label) * weight.sum(axis=1)
    if np.abs([low + op.bias, high + op.bias]).max() >= 1 << 31:
        return None
    found = []
    for channel, (multiplier, offset, shift) in enumerate(
        zip(*(part.tolist() for part in (op.floor.multiplier, op.floor.offset, op.floor.shift)), strict=True)
    ):
        raised = offset + ((y.zero_point - op.lo) << shift)  # so that the clamp's lower bound is 0
        line = Line(multiplier, raised + multiplier * int(bias[channel]), shift)
        steps = line_staircase(line, int(low[channel]), int(high[channel]), op.hi - op.lo)
        parameters = truncation(line, steps)
        if parameters is None:
            return None
        found.append(parameters)
    return found
