"""ONNX nodes that pick, repeat and rearrange elements: Slice, Expand, Resize, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from hwq.ir import Array, Expand, Op, Reshape, Slice, Tensor, Transpose
from hwq.onnx_constraints import (
    constraint_constant_slice,
    constraint_equal_parameters,
    constraint_image,
    constraint_whole_steps,
    present,
    require,
)
from hwq.onnx_values import Values, attribute, operand


def read_slice(values: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    """Return the Slice of a node whose bounds are constants."""
    x = inputs[0]
    constants = values.source.constants
    names = [operand(node, position) for position in range(1, 5)]
    starts, ends = (present(constraint_constant_slice, constants.get(name)).reshape(-1) for name in names[:2])
    axes, steps = np.arange(len(starts)), np.ones(len(starts), np.int64)
    if names[2]:
        axes = present(constraint_constant_slice, constants.get(names[2])).reshape(-1)
    if names[3]:
        steps = present(constraint_constant_slice, constants.get(names[3])).reshape(-1)
    begin, stride = [0] * len(x.shape), [1] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        begin[int(axis)], _, stride[int(axis)] = slice(int(start), int(end), int(step)).indices(x.shape[int(axis)])
    return [_slice(node, "", x, output, begin, stride)]


def read_expand(values: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    """Return the Expand of a node."""
    return [Expand(name=_name(node), inputs=(inputs[0].name,), outputs=(output.name,))]


def read_resize(values: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    """Return the operators of a Resize that repeats every element, or keeps one of several, along each axis."""
    x = inputs[0]
    require(constraint_whole_steps, attribute(node, "mode", "nearest") == "nearest")
    indices = [_nearest(node, *sizes) for sizes in zip(x.shape, output.shape, strict=True)]
    begin, stride, kept = [0] * len(x.shape), [1] * len(x.shape), list(x.shape)
    for axis, (index, size) in enumerate(zip(indices, x.shape, strict=True)):
        if len(index) < size:
            step = int(index[1] - index[0]) if len(index) > 1 else 1
            require(constraint_whole_steps, step > 0 and np.array_equal(index, index[0] + step * np.arange(len(index))))
            begin[axis], stride[axis], kept[axis] = int(index[0]), step, len(index)
        else:
            whole = len(index) % size == 0 and np.array_equal(index, np.arange(size).repeat(len(index) // size))
            require(constraint_whole_steps, whole)
    _require_stated_scales(values, node, x, output)
    factors = [out // size for out, size in zip(output.shape, kept, strict=True)]
    ops: list[Op] = []
    if tuple(kept) != x.shape:
        sliced = output if tuple(kept) == output.shape else values.fresh(f"{output.name}/kept", x, tuple(kept))
        ops.append(_slice(node, "/keep" if sliced is not output else "", x, sliced, begin, stride))
        x = sliced
    if x is output:
        return ops
    apart = tuple(n for size in kept for n in (size, 1))
    repeated = tuple(n for pair in zip(kept, factors, strict=True) for n in pair)
    names = [values.fresh(f"{output.name}/{part}", output, shape) for part, shape in (("a", apart), ("b", repeated))]
    return [
        *ops,
        Reshape(name=f"{_name(node)}/apart", inputs=(x.name,), outputs=(names[0].name,)),
        Expand(name=f"{_name(node)}/repeat", inputs=(names[0].name,), outputs=(names[1].name,)),
        Reshape(name=_name(node), inputs=(names[1].name,), outputs=(output.name,)),
    ]


def _require_stated_scales(values: Values, node: onnx.NodeProto, x: Tensor, output: Tensor) -> None:
    """Stay on the host unless scales, where the node states them, are exactly the quotients of the sizes."""
    if attribute(node, "axes", None) is not None:
        require(constraint_whole_steps, not operand(node, 2))
    if operand(node, 2):
        scales = present(constraint_constant_slice, values.source.constants.get(operand(node, 2)))
        quotients = [out / size for out, size in zip(output.shape, x.shape, strict=True)]
        require(constraint_whole_steps, not scales.size or scales.reshape(-1).tolist() == quotients)
    policy = attribute(node, "keep_aspect_ratio_policy", "stretch")
    require(constraint_whole_steps, policy == "stretch")


def _nearest(node: onnx.NodeProto, size: int, out: int) -> Array:
    """Return the index each of `out` elements of a Resize reads along an axis of `size` elements, in exact quarters."""
    if size == out:
        return np.arange(size)
    position = np.arange(out, dtype=np.int64)
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    halves = mode in ("half_pixel", "half_pixel_symmetric") or (mode == "pytorch_half_pixel" and out > 1)
    require(constraint_whole_steps, halves or mode == "asymmetric" or mode == "pytorch_half_pixel")
    # the coordinate is `above` / `below`
    below = 2 * out
    above = (2 * position + 1) * size - out if halves else 2 * position * size
    if mode == "pytorch_half_pixel" and out == 1:
        above = np.zeros(1, np.int64)
    rounding = {
        "round_prefer_floor": -((below // 2 - above) // below),
        "round_prefer_ceil": (above + below // 2) // below,
        "floor": above // below,
        "ceil": -(-above // below),
    }
    return np.clip(rounding[attribute(node, "nearest_mode", "round_prefer_floor")], 0, size - 1)


def read_depth_to_space(values: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    """Return the views that move blocks of channels into space."""
    (n, channels, rows, columns), block = _image(inputs[0]), attribute(node, "blocksize", 1)
    depth = channels // (block * block)
    if attribute(node, "mode", "DCR") == "DCR":
        shape, perm = (n, block, block, depth, rows, columns), (0, 3, 4, 1, 5, 2)
    else:
        shape, perm = (n, depth, block, block, rows, columns), (0, 1, 4, 2, 5, 3)
    return rearranged(values, _name(node), inputs[0], output, shape, perm)


def read_space_to_depth(values: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    """Return the views that move blocks of space into channels."""
    (n, channels, rows, columns), block = _image(inputs[0]), attribute(node, "blocksize", 1)
    shape = (n, channels, rows // block, block, columns // block, block)
    return rearranged(values, _name(node), inputs[0], output, shape, (0, 3, 5, 1, 2, 4))


def rearranged(values: Values, name: str, x: Tensor, y: Tensor, shape: Sequence[int], perm: Sequence[int]) -> list[Op]:
    """Return the operators of ``y = x.reshape(shape).transpose(perm).reshape(y.shape)``."""
    split = values.fresh(f"{y.name}/split", x, tuple(shape))
    moved = values.fresh(f"{y.name}/moved", x, tuple(shape[axis] for axis in perm))
    return [
        Reshape(name=f"{name}/split", inputs=(x.name,), outputs=(split.name,)),
        Transpose(name=f"{name}/move", inputs=(split.name,), outputs=(moved.name,), perm=tuple(perm)),
        Reshape(name=name, inputs=(moved.name,), outputs=(y.name,)),
    ]


def _image(x: Tensor) -> tuple[int, ...]:
    require(constraint_image, len(x.shape))
    require(constraint_equal_parameters, x)
    return x.shape


def _slice(node: onnx.NodeProto, suffix: str, x: Tensor, y: Tensor, begin: list[int], steps: list[int]) -> Slice:
    name = _name(node) + suffix
    return Slice(name=name, inputs=(x.name,), outputs=(y.name,), begin=tuple(begin), steps=tuple(steps))


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or node.output[0])
