"""ONNX nodes that carry values along unchanged: views, copies, Concat, Pad and MaxPool.

Dequantization is monotone and elementwise, so these nodes mean the same on integers as on the floats they stand for.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from hwq.ir import Concat, MaxPool, Op, Pad, Reshape, Tensor, Transpose
from hwq.onnx_constraints import (
    constraint_constant_pad,
    constraint_equal_parameters,
    constraint_no_indices,
    constraint_pad_mode,
    constraint_plain_pads,
    constraint_representable_pad,
    present,
    require,
)
from hwq.onnx_load import Source
from hwq.onnx_movers import read_depth_to_space, read_expand, read_resize, read_slice, read_space_to_depth
from hwq.onnx_values import Params, Values, attribute, operand
from hwq.onnx_windows import as_image, read_window

Carrier = Callable[[Values, onnx.NodeProto, list[Tensor], Tensor], list[Op]]


def node_name(node: onnx.NodeProto) -> str:
    """Return a node's name, or its first output's."""
    return str(node.name or node.output[0])


def is_view(node: onnx.NodeProto) -> bool:
    """Whether a node only rearranges elements."""
    return not node.domain and node.op_type in _VIEWS


def is_carrier(node: onnx.NodeProto) -> bool:
    """Whether a node's output values are input values (or a padding constant)."""
    return not node.domain and node.op_type in CARRIERS


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """Return the inputs of a carrier that hold data, not shapes."""
    return list(node.input) if node.op_type == "Concat" else [node.input[0]]


def carry(values: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    """Return the integer operators of a carrier.

    Raises
    ------
    StaysOnHost
        A constraint of the node doesn't hold.
    """
    require(constraint_equal_parameters, *inputs, output)
    return CARRIERS[node.op_type](values, node, inputs, output)


def _reshape(values: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    if inputs[0].size != output.size:
        raise values.source.error(f"{inputs[0].shape} can't take the shape {output.shape}", node)
    return [Reshape(name=node_name(node), inputs=(inputs[0].name,), outputs=(output.name,))]


def _transpose(_: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    perm = tuple(attribute(node, "perm", list(reversed(range(len(inputs[0].shape))))))
    return [Transpose(name=node_name(node), inputs=(inputs[0].name,), outputs=(output.name,), perm=perm)]


def _concat(_: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    axis = attribute(node, "axis", 0) % len(output.shape)
    names = tuple(tensor.name for tensor in inputs)
    return [Concat(name=node_name(node), inputs=names, outputs=(output.name,), axis=axis)]


def _max_pool(values: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    require(constraint_no_indices, len([name for name in node.output if name]))
    window = read_window(node, inputs[0], output, ())
    top, left, bottom, right = window.pads

    def build(x: Tensor, y: Tensor) -> Op:
        # Padding never wins, so what ceil_mode lets stick out is padding too.
        return MaxPool(
            name=node_name(node),
            inputs=(x.name,),
            outputs=(y.name,),
            kernel=window.kernel,
            strides=window.strides,
            pads=(top, left, bottom + window.overhang[0], right + window.overhang[1]),
            dilations=window.dilations,
        )

    return as_image(values, node_name(node), inputs[0], output, build)


def _pad(values: Values, node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> list[Op]:
    x = inputs[0]
    value = pad_value(values, node, x)
    params = Params(x.scale or 0.0, x.zero_point, x.dtype)
    if values.tensors[node.input[0]].is_quantized:
        return [pad_op(values.source, node, x, output, int(value))]
    integer = params.quantize(value)
    require(constraint_representable_pad, float(params.dequantize(integer)) == value)
    return [pad_op(values.source, node, x, output, integer)]


def pad_value(values: Values, node: onnx.NodeProto, x: Tensor) -> float:
    """Return the constant a Pad node pads with, in the domain of its input."""
    require(constraint_pad_mode, attribute(node, "mode", "constant"))
    name = operand(node, 2)
    if not name:
        return 0.0
    if not values.tensors[node.input[0]].is_quantized:
        return present(constraint_constant_pad, values.number(name))
    constant = values.source.constants.get(name)
    return float(present(constraint_constant_pad, constant if constant is not None and constant.size else None).flat[0])


def pad_op(source: Source, node: onnx.NodeProto, x: Tensor, y: Tensor, value: int) -> Pad:
    """Return the integer Pad of a node that pads with the integer `value`."""
    rank = len(x.shape)
    amounts = present(constraint_constant_pad, source.constants.get(operand(node, 1)))
    dims = list(range(rank))
    if operand(node, 3):
        axes = present(constraint_constant_pad, source.constants.get(operand(node, 3)))
        dims = [int(axis) % rank for axis in axes.reshape(-1)]
    begin, end = [0] * rank, [0] * rank
    for position, dim in enumerate(dims):
        begin[dim] = int(amounts[position])
        end[dim] = int(amounts[position + len(dims)])
    require(constraint_plain_pads, (*begin, *end))
    return Pad(
        name=node_name(node), inputs=(x.name,), outputs=(y.name,), begin=tuple(begin), end=tuple(end), value=value
    )


_VIEWS: dict[str, Carrier] = {
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Identity": _reshape,
    "Transpose": _transpose,
}
CARRIERS: dict[str, Carrier] = {
    **_VIEWS,
    "Concat": _concat,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Slice": read_slice,
    "Expand": read_expand,
    "Resize": read_resize,
    "DepthToSpace": read_depth_to_space,
    "SpaceToDepth": read_space_to_depth,
}
