"""ConvTranspose as one convolution: every phase of its stride is a group of output channels, moved into space."""

from __future__ import annotations

import numpy as np
import onnx

from hwq.ir import Array, Conv, Op, Slice, Tensor
from hwq.onnx_carriers import node_name
from hwq.onnx_constraints import constraint_image, constraint_plain_transposed, require
from hwq.onnx_movers import rearranged
from hwq.onnx_values import Values, attribute


def build_transposed(
    values: Values,
    node: onnx.NodeProto,
    x: Tensor,
    weight: Array,
    scale: Array,
    zero_point: Array,
    bias: Array,
    y: Tensor,
    clamp: tuple[int, int],
) -> list[Op]:
    """Return the operators of a two-dimensional ConvTranspose.

    Along an axis, output ``s * q + r`` (before cropping) is ``sum_t x[q - t] * w[r + s * t]``: for each phase r < s a
    convolution with taps w[r], w[r + s], ... in reverse, over the padded input. The phases become channels of one
    convolution, which `rearranged` puts in their places, and a Slice crops.

    Parameters
    ----------
    weight : int8 or uint8 (I, O, kh, kw)
    scale : float32 (O,)
    zero_point : int64 (O,)
    bias : int32 (O,)
    """
    require(constraint_image, len(x.shape) if len(x.shape) == 4 else 0)
    name = node_name(node)
    inputs, outputs, *kernel = weight.shape
    strides, pads = attribute(node, "strides", [1, 1]), attribute(node, "pads", [0] * 4)
    spare = attribute(node, "output_padding", [0, 0])
    sizes = [
        stride * (size - 1) + k + extra - begin - end
        for size, k, stride, extra, begin, end in zip(
            x.shape[2:], kernel, strides, spare, pads[:2], pads[2:], strict=True
        )
    ]
    plain = attribute(node, "group", 1) == 1 and set(attribute(node, "dilations", [1])) == {1} and min(pads) >= 0
    plain = plain and attribute(node, "auto_pad", "NOTSET") == "NOTSET" and not attribute(node, "output_shape", [])
    plain = plain and tuple(sizes) == y.shape[2:]
    require(constraint_plain_transposed, plain and inputs == x.shape[1])
    taps = [
        max(-(-k // stride), -(-(begin + size) // stride) - n + 1)
        for k, stride, begin, size, n in zip(kernel, strides, pads[:2], sizes, x.shape[2:], strict=True)
    ]
    phases = _phases(weight, zero_point, (strides[0], strides[1]), (taps[0], taps[1]))
    count = strides[0] * strides[1]
    grid = [size + tap - 1 for size, tap in zip(x.shape[2:], taps, strict=True)]
    batch = x.shape[0]
    apart = values.fresh(f"{y.name}/phases", y, (batch, count * outputs, *grid))
    whole = (batch, outputs, grid[0] * strides[0], grid[1] * strides[1])
    uncropped = y if whole == y.shape else values.fresh(f"{y.name}/uncropped", y, whole)
    shape = (batch, *strides, outputs, *grid)
    ops: list[Op] = [
        Conv(
            name=name,
            inputs=(x.name,),
            outputs=(apart.name,),
            weight=phases,
            weight_zero_point=np.tile(zero_point, count),
            weight_scale=np.tile(scale, count),
            bias=np.tile(bias, count),
            pads=(taps[0] - 1, taps[1] - 1, taps[0] - 1, taps[1] - 1),
            lo=clamp[0],
            hi=clamp[1],
        ),
        *rearranged(values, f"{name}/interleave", apart, uncropped, shape, (0, 3, 4, 1, 5, 2)),
    ]
    if uncropped is not y:
        begin = (0, 0, pads[0], pads[1])
        crop = Slice(name=f"{name}/crop", inputs=(uncropped.name,), outputs=(y.name,), begin=begin, steps=(1, 1, 1, 1))
        ops.append(crop)
    values.rewrites.append(f"{name}: transposed convolution taken as {count} integer convolutions, one a phase")
    return ops


def _phases(weight: Array, zero_point: Array, strides: tuple[int, int], taps: tuple[int, int]) -> Array:
    """Return the kernels (phases * O, I, taps, taps) of all phases, absent taps being zero points."""
    inputs, outputs, rows, columns = weight.shape
    kernel = np.empty((inputs, outputs, strides[0] * taps[0], strides[1] * taps[1]), weight.dtype)
    kernel[:] = zero_point.reshape(1, -1, 1, 1)
    kernel[:, :, :rows, :columns] = weight
    split = kernel.reshape(inputs, outputs, taps[0], strides[0], taps[1], strides[1])
    flipped = split[:, :, ::-1, :, ::-1].transpose(3, 5, 1, 0, 2, 4)
    return np.ascontiguousarray(flipped.reshape(-1, inputs, *taps))
