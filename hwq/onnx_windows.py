"""The sliding window of an ONNX convolution or pooling node, its padding resolved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from hwq.ir import Op, Reshape, Tensor
from hwq.onnx_constraints import constraint_image, constraint_plain_pads, require
from hwq.onnx_values import Values, attribute


@dataclass(frozen=True, slots=True)
class Window:
    """A two-dimensional window; a one-dimensional one has height 1.

    Members
    -------
    kernel, strides, dilations : (y, x)
    pads : (top, left, bottom, right)
    overhang : (bottom, right)
        Elements the last window reaches beyond the padded map, where ``ceil_mode`` asks for one.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    overhang: tuple[int, int] = (0, 0)


def read_window(node: onnx.NodeProto, x: Tensor, y: Tensor, kernel: tuple[int, ...]) -> Window:
    """Return the window of `node` over `x` that gives `y`; `kernel` is used where the node states none."""
    rank = len(x.shape) - 2
    require(constraint_image, rank + 2)
    kernel = tuple(attribute(node, "kernel_shape", kernel))
    strides = tuple(attribute(node, "strides", [1] * rank))
    dilations = tuple(attribute(node, "dilations", [1] * rank))
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    auto = attribute(node, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = [], []
        for size, extent, stride in zip(x.shape[2:], extents, strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            small, large = total // 2, total - total // 2
            begin.append(small if auto == "SAME_UPPER" else large)
            end.append(large if auto == "SAME_UPPER" else small)
        pads = (*begin, *end)
    elif auto == "VALID":
        pads = (0,) * (2 * rank)
    else:
        pads = tuple(attribute(node, "pads", [0] * (2 * rank)))
    require(constraint_plain_pads, pads)
    room = (size + pads[axis] + pads[axis + rank] - extents[axis] for axis, size in enumerate(x.shape[2:]))
    strides = tuple(min(stride, max(steps, 0) + 1) for stride, steps in zip(strides, room, strict=True))
    overhang = [
        max((out - 1) * stride + extent - (size + pads[axis] + pads[axis + rank]), 0)
        for axis, (out, stride, extent, size) in enumerate(zip(y.shape[2:], strides, extents, x.shape[2:], strict=True))
    ]
    if rank == 1:
        return Window((1, kernel[0]), (1, strides[0]), (1, dilations[0]), (0, pads[0], 0, pads[1]), (0, overhang[0]))
    return Window(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (pads[0], pads[1], pads[2], pads[3]),
        (overhang[0], overhang[1]),
    )


def as_image(values: Values, name: str, x: Tensor, y: Tensor, build: Callable[[Tensor, Tensor], Op]) -> list[Op]:
    """Return the operators that apply a two-dimensional `build` to `x`, through (N, C, 1, L) where it is (N, C, L)."""
    require(constraint_image, len(x.shape))
    if len(x.shape) == 4:
        return [build(x, y)]
    x_image = values.fresh(f"{x.name}/image", x, (*x.shape[:2], 1, x.shape[2]))
    y_image = values.fresh(f"{y.name}/image", y, (*y.shape[:2], 1, y.shape[2]))
    return [
        Reshape(name=f"{name}/to_image", inputs=(x.name,), outputs=(x_image.name,)),
        build(x_image, y_image),
        Reshape(name=f"{name}/from_image", inputs=(y_image.name,), outputs=(y.name,)),
    ]
