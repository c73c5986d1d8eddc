"""ONNX nodes that compute on quantized values, in both of their forms.

The QOperator form (QLinearConv and its like) carries its quantization parameters; the QDQ form is a float operator
between DequantizeLinear and QuantizeLinear. Each pair of functions below only gathers the operands of its form;
one `_build` function then makes the `hwq.ir` operator, so both forms mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from hwq.ir import Add, Array, AveragePool, BlockScales, Concat, Conv, Gemm, Mul, Op, Pair, Reshape, Sub, Tensor
from hwq.onnx_carriers import node_name, pad_op, pad_value
from hwq.onnx_constraints import (
    constraint_bias_in_range,
    constraint_channels_first,
    constraint_constant_bias,
    constraint_constant_parameters,
    constraint_constant_weight,
    constraint_equal_parameters,
    constraint_image_mean,
    constraint_matching_parameters,
    constraint_matrix_weight,
    constraint_one_divisor,
    constraint_one_signedness,
    constraint_plain_gemm,
    constraint_quantized_input,
    constraint_undilated_average,
    constraint_usable_parameters,
    constraint_weight_scale_per_output,
    constraint_whole_scale,
    present,
    require,
)
from hwq.onnx_tables import requantize
from hwq.onnx_transposed import build_transposed
from hwq.onnx_values import QDTYPES, Params, Quantized, Values, attribute, operand
from hwq.onnx_windows import Window, as_image, read_window

Clamp = tuple[int, int]
QdqRule = Callable[[Values, onnx.NodeProto, Tensor, Clamp], list[Op]]
OperatorRule = Callable[[Values, onnx.NodeProto], list[Op]]


# Operands -------------------------------------------------------------------------------------------------------------


def _input(values: Values, name: str) -> Tensor:
    return present(constraint_quantized_input, values.integer(name))


def _operator_input(values: Values, node: onnx.NodeProto, position: int) -> Tensor:
    """Return input `position` of a QOperator node, which states its scale and zero point in the next two inputs."""
    tensor = values.tensors[node.input[position]]
    stated = values.params(operand(node, position + 1), operand(node, position + 2), tensor.dtype)
    known = Params(tensor.scale, tensor.zero_point, tensor.dtype) if tensor.scale is not None else None
    require(constraint_matching_parameters, present(constraint_constant_parameters, stated) == known)
    return tensor


def _operator_output(values: Values, node: onnx.NodeProto) -> Tensor:
    tensor = values.tensors[node.output[0]]
    require(constraint_usable_parameters, tensor.is_quantized)
    return tensor


def _operator_weight(values: Values, node: onnx.NodeProto, position: int, axis: int) -> Quantized:
    constants = values.source.constants
    weight, scale = (
        present(constraint_constant_weight, constants.get(operand(node, position + offset))) for offset in range(2)
    )
    zero_point = np.zeros(1, weight.dtype)
    if operand(node, position + 2):
        zero_point = present(constraint_constant_weight, constants.get(operand(node, position + 2)))
    return Quantized(weight, scale.reshape(-1), zero_point.reshape(-1), axis)


def qdq_weight(values: Values, name: str) -> Quantized:
    """Return the weight that the float tensor `name` dequantizes."""
    require(constraint_whole_scale, values.block_size(name))
    weight = values.quantized_constant(name)
    return present(constraint_constant_weight, weight if weight and weight.values.dtype.name in QDTYPES else None)


def per_output(weight: Quantized, axis: int) -> tuple[Array, Array]:
    """Return scale (float32) and zero point (int64) of each output channel, which lies on `axis`."""
    outputs = weight.values.shape[axis]
    require(constraint_weight_scale_per_output, weight.axis, axis, weight.scale, outputs)
    scale = np.broadcast_to(weight.scale.astype(np.float32), (outputs,)).copy()
    zero_point = np.broadcast_to(weight.zero_point.astype(np.int64), (outputs,)).copy()
    return scale, zero_point


def constant_vector(value: Array | None, outputs: int) -> Array:
    """Return a constant such as a bias as one value per output, from a vector, a scalar or either with leading ones."""
    fits = value is not None and value.size in (1, outputs) and (value.size == 1 or value.shape[-1] == outputs)
    vector = present(constraint_constant_bias, value if fits else None)
    return np.broadcast_to(vector.reshape(-1), (outputs,)).copy()


def _operator_bias(values: Values, name: str, outputs: int) -> Array:
    if not name:
        return np.zeros(outputs, np.int32)
    value = values.source.constants.get(name)
    return constant_vector(value if value is not None and value.dtype == np.int32 else None, outputs)


def qdq_bias(values: Values, node: onnx.NodeProto, name: str, scale: Array) -> Array:
    """Return the int32 bias of accumulators of the given scale: as stored where that is the bias's own scale."""
    outputs = scale.size
    if not name:
        return np.zeros(outputs, np.int32)
    constant = values.quantized_constant(name)
    if (
        constant is not None
        and constant.values.dtype == np.int32
        and not constant.zero_point.any()
        and np.array_equal(np.broadcast_to(constant.scale, (outputs,)), scale)
    ):
        return constant_vector(constant.values, outputs)
    floats = constant_vector(values.floats(name), outputs)
    steps = np.rint(floats / scale).astype(np.float64)
    require(constraint_bias_in_range, steps)
    if not (constant is not None and np.array_equal(constant_vector(constant.values, outputs), steps)):
        values.rewrites.append(f"{node_name(node)}: bias rounded to a multiple of input scale times weight scale")
    return steps.astype(np.int32)


# Convolution ----------------------------------------------------------------------------------------------------------


def _qdq_conv(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    x, weight = _input(values, node.input[0]), qdq_weight(values, node.input[1])
    scale, zero_point = per_output(weight, 0)
    bias = qdq_bias(values, node, operand(node, 2), np.float32(x.scale) * scale)
    return build_conv(values, node, x, weight.values, scale, zero_point, bias, y, clamp)


def _qlinear_conv(values: Values, node: onnx.NodeProto) -> list[Op]:
    x, weight, y = (
        _operator_input(values, node, 0),
        _operator_weight(values, node, 3, 0),
        _operator_output(values, node),
    )
    scale, zero_point = per_output(weight, 0)
    bias = _operator_bias(values, operand(node, 8), scale.size)
    return build_conv(values, node, x, weight.values, scale, zero_point, bias, y, y.range)


def build_conv(
    values: Values,
    node: onnx.NodeProto,
    x: Tensor,
    weight: Array,
    scale: Array,
    zero_point: Array,
    bias: Array,
    y: Tensor,
    clamp: Clamp,
    block_scales: BlockScales | None = None,
) -> list[Op]:
    """Return the Conv of a node, with the views an image of rank 3 takes."""
    require(constraint_one_signedness, x, y)
    groups = attribute(node, "group", 1)
    fits = groups >= 1 and len(weight) % groups == 0 and weight.ndim == len(x.shape)
    if not fits or (groups * weight.shape[1], y.shape[1]) != (x.shape[1], len(weight)):
        raise values.source.error(
            f"a weight of shape {weight.shape} in {groups} groups doesn't take {x.shape} to {y.shape}", node
        )
    window = read_window(node, x, y, weight.shape[2:])
    if weight[0, 0].size != math.prod(window.kernel):
        raise values.source.error(f"its kernel_shape isn't that of its weight, {weight.shape[2:]}", node)
    kernel = weight.reshape(*weight.shape[:2], *window.kernel)
    floor, (lo, hi) = values.floors.get(y.name, (None, clamp))

    def build(x_image: Tensor, y_image: Tensor) -> Op:
        return Conv(
            name=node_name(node),
            inputs=(x_image.name,),
            outputs=(y_image.name,),
            weight=kernel,
            weight_zero_point=zero_point,
            weight_scale=scale,
            bias=bias,
            block_scales=block_scales,
            strides=window.strides,
            pads=window.pads,
            dilations=window.dilations,
            groups=groups,
            lo=lo,
            hi=hi,
            floor=floor,
        )

    return as_image(values, node_name(node), x, y, build)


def _qdq_conv_transpose(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    x, weight = _input(values, node.input[0]), qdq_weight(values, node.input[1])
    require(constraint_one_signedness, x, y)
    scale, zero_point = per_output(weight, 1)
    bias = qdq_bias(values, node, operand(node, 2), np.float32(x.scale) * scale)
    return build_transposed(values, node, x, weight.values, scale, zero_point, bias, y, clamp)


# Matrix product -------------------------------------------------------------------------------------------------------


def _qdq_gemm(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    bias = operand(node, 2)
    require(constraint_plain_gemm, attribute(node, "transA", 0), attribute(node, "beta", 1.0), bool(bias))
    return _qdq_matrix(
        values,
        node,
        y,
        clamp,
        bias_name=bias,
        bias_node=node,
        transposed=bool(attribute(node, "transB", 0)),
        alpha=attribute(node, "alpha", 1.0),
    )


def _qdq_matmul(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    return _qdq_matrix(values, node, y, clamp, bias_name="", bias_node=node)


def _qdq_matrix(
    values: Values,
    node: onnx.NodeProto,
    y: Tensor,
    clamp: Clamp,
    *,
    bias_name: str,
    bias_node: onnx.NodeProto,
    transposed: bool = False,
    alpha: float = 1.0,
) -> list[Op]:
    x, weight = _input(values, node.input[0]), qdq_weight(values, node.input[1])
    require(constraint_matrix_weight, weight.values)
    scale, zero_point = per_output(weight, 0 if transposed else 1)
    accumulator = np.float32(alpha) * np.float32(x.scale) * scale
    bias = qdq_bias(values, bias_node, bias_name, accumulator)
    matrix = weight.values.T if transposed else weight.values
    return build_gemm(values, node, x, matrix, scale, zero_point, bias, y, clamp, alpha)


def _qgemm(values: Values, node: onnx.NodeProto) -> list[Op]:
    require(constraint_plain_gemm, attribute(node, "transA", 0), 1.0, False)
    transposed = bool(attribute(node, "transB", 0))
    axis = 0 if transposed else 1
    x, weight = _operator_input(values, node, 0), _operator_weight(values, node, 3, axis)
    y = _operator_output(values, node)
    require(constraint_matrix_weight, weight.values)
    scale, zero_point = per_output(weight, axis)
    bias = _operator_bias(values, operand(node, 6), scale.size)
    matrix = weight.values.T if transposed else weight.values
    return build_gemm(values, node, x, matrix, scale, zero_point, bias, y, y.range, attribute(node, "alpha", 1.0))


def _qlinear_matmul(values: Values, node: onnx.NodeProto) -> list[Op]:
    x, weight, y = (
        _operator_input(values, node, 0),
        _operator_weight(values, node, 3, 1),
        _operator_output(values, node),
    )
    require(constraint_matrix_weight, weight.values)
    scale, zero_point = per_output(weight, 1)
    bias = np.zeros(scale.size, np.int32)
    return build_gemm(values, node, x, weight.values, scale, zero_point, bias, y, y.range, 1.0)


def build_gemm(
    values: Values,
    node: onnx.NodeProto,
    x: Tensor,
    weight: Array,
    scale: Array,
    zero_point: Array,
    bias: Array,
    y: Tensor,
    clamp: Clamp,
    alpha: float,
    block_scales: BlockScales | None = None,
) -> list[Op]:
    """Return the Gemm of a node; `weight` is (K, N), `scale`, `zero_point` and `bias` are (N,)."""
    require(constraint_one_signedness, x, y)
    if y.shape != (*x.shape[:-1], weight.shape[1]) or weight.shape[0] != x.shape[-1]:
        raise values.source.error(f"a weight of shape {weight.shape} doesn't take {x.shape} to {y.shape}", node)
    floor, (lo, hi) = values.floors.get(y.name, (None, clamp))
    return [
        Gemm(
            name=node_name(node),
            inputs=(x.name,),
            outputs=(y.name,),
            weight=np.ascontiguousarray(weight),
            weight_zero_point=zero_point,
            weight_scale=scale,
            bias=bias,
            block_scales=block_scales,
            alpha=float(alpha),
            lo=lo,
            hi=hi,
            floor=floor,
        )
    ]


# Functions of two tensors ---------------------------------------------------------------------------------------------


def _qdq_add(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    """Return an Add of two quantized tensors, or the Gemm of a MatMul whose bias this node adds."""
    for product, bias in (node.input, reversed(node.input)):
        inner = values.producer(product)
        if inner is not None and inner.op_type == "MatMul" and not inner.domain and values.floats(bias) is not None:
            return _qdq_matrix(values, inner, y, clamp, bias_name=bias, bias_node=node)
    return _build_add(node, _input(values, node.input[0]), _input(values, node.input[1]), y, clamp)


def _qlinear_add(values: Values, node: onnx.NodeProto) -> list[Op]:
    y = _operator_output(values, node)
    return _build_add(node, _operator_input(values, node, 0), _operator_input(values, node, 3), y, y.range)


def _build_add(node: onnx.NodeProto, a: Tensor, b: Tensor, y: Tensor, clamp: Clamp) -> list[Op]:
    require(constraint_one_signedness, a, b, y)
    if _is_constant_along_rows(a, y):
        a, b = b, a
    return [_pair(Add, node, a, b, y, clamp)]


def _qdq_pair(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    a, b = (_input(values, name) for name in node.input)
    require(constraint_one_signedness, a, b, y)
    return [_pair(_PAIRS[node.op_type], node, a, b, y, clamp)]


def _qlinear_mul(values: Values, node: onnx.NodeProto) -> list[Op]:
    y = _operator_output(values, node)
    return [_pair(Mul, node, _operator_input(values, node, 0), _operator_input(values, node, 3), y, y.range)]


def _pair(kind: type[Pair], node: onnx.NodeProto, a: Tensor, b: Tensor, y: Tensor, clamp: Clamp) -> Pair:
    return kind(name=node_name(node), inputs=(a.name, b.name), outputs=(y.name,), lo=clamp[0], hi=clamp[1])


_PAIRS: dict[str, type[Pair]] = {"Mul": Mul, "Sub": Sub}


def _is_constant_along_rows(a: Tensor, y: Tensor) -> bool:
    """Whether ONNX Runtime's kernel takes the first operand as a scalar, which it multiplies and rounds first.

    That is so where the operand is broadcast along the innermost axis longer than 1, and where there is no such axis.
    """
    aligned = (1,) * (len(y.shape) - len(a.shape)) + a.shape
    return next(
        (first == 1 for first, size in zip(reversed(aligned), reversed(y.shape), strict=True) if size > 1), True
    )


# Pooling --------------------------------------------------------------------------------------------------------------


def _qdq_average(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    x = _input(values, node.input[0])
    return _build_average(values, node, x, y, clamp, read_window(node, x, y, ()))


def _qlinear_average(values: Values, node: onnx.NodeProto) -> list[Op]:
    require(constraint_channels_first, attribute(node, "channels_last", 0))
    x, y = _operator_input(values, node, 0), _operator_output(values, node)
    return _build_average(values, node, x, y, y.range, read_window(node, x, y, ()))


def _qdq_global_average(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    x = _input(values, node.input[0])
    return _build_average(values, node, x, y, clamp, read_window(node, x, y, x.shape[2:]))


def _qlinear_global_average(values: Values, node: onnx.NodeProto) -> list[Op]:
    require(constraint_channels_first, attribute(node, "channels_last", 0))
    x, y = _operator_input(values, node, 0), _operator_output(values, node)
    return _build_average(values, node, x, y, y.range, read_window(node, x, y, x.shape[2:]))


def _build_average(
    values: Values, node: onnx.NodeProto, x: Tensor, y: Tensor, clamp: Clamp, window: Window
) -> list[Op]:
    require(constraint_one_signedness, x, y)
    require(constraint_undilated_average, window.dilations)
    counted = bool(attribute(node, "count_include_pad", 0))
    require(constraint_one_divisor, window.pads, counted, any(window.overhang))

    def build(x_image: Tensor, y_image: Tensor) -> Op:
        return AveragePool(
            name=node_name(node),
            inputs=(x_image.name,),
            outputs=(y_image.name,),
            kernel=window.kernel,
            strides=window.strides,
            pads=window.pads,
            lo=clamp[0],
            hi=clamp[1],
        )

    ops = as_image(values, node_name(node), x, y, build)
    if "Global" not in node.op_type:
        count = window.kernel[0] * window.kernel[1]
        values.rewrites.append(
            f"{node_name(node)}: average of {count} values taken as one integer sum, requantized once"
        )
    return ops


def _qdq_mean(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    """Return the global average pool that a ReduceMean over an image is, and a view where it drops the axes."""
    x = _input(values, node.input[0])
    axes = attribute(node, "axes", None)
    if axes is None and operand(node, 1):
        axes = values.source.constants.get(operand(node, 1))
    rank = len(x.shape)
    whole = axes is not None and sorted(int(axis) % rank for axis in axes) == list(range(2, rank))
    present(constraint_image_mean, axes if whole else None)
    pooled = (*x.shape[:2], *[1] * (rank - 2))
    core = y if y.shape == pooled else values.fresh(f"{y.name}/pooled", y, pooled)
    ops = _build_average(values, node, x, core, clamp, read_window(node, x, core, x.shape[2:]))
    if core is not y:
        ops.append(Reshape(name=f"{node_name(node)}/squeeze", inputs=(core.name,), outputs=(y.name,)))
    return ops


# The rest -------------------------------------------------------------------------------------------------------------


def _qdq_pad(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    """Return a Pad whose value QuantizeLinear rounds; where it needs no rounding, the node is a carrier."""
    x = _input(values, node.input[0])
    require(constraint_equal_parameters, x, y)
    require(constraint_usable_parameters, clamp == y.range)
    value = Params(x.scale or 0.0, x.zero_point, x.dtype).quantize(pad_value(values, node, x))
    return [pad_op(values.source, node, x, y, value)]


def _qdq_concat(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    require(constraint_usable_parameters, clamp == y.range)
    return _build_concat(values, node, [_input(values, name) for name in node.input], y, operator=False)


def _qlinear_concat(values: Values, node: onnx.NodeProto) -> list[Op]:
    y = _operator_output(values, node)
    inputs = [_operator_input(values, node, position) for position in range(2, len(node.input), 3)]
    return _build_concat(values, node, inputs, y, operator=True)


def _build_concat(values: Values, node: onnx.NodeProto, inputs: list[Tensor], y: Tensor, *, operator: bool) -> list[Op]:
    """Return a Concat, and before it a Table for each input with other parameters than the result's."""
    ops: list[Op] = []
    names = []
    for position, x in enumerate(inputs):
        if (x.scale, x.zero_point, x.dtype) != (y.scale, y.zero_point, y.dtype):
            source, x = x, values.fresh(f"{x.name}_as_{y.name}", y, x.shape)
            ops.append(requantize(values, f"{node_name(node)}/{position}", source, x, operator=operator))
        names.append(x.name)
    axis = attribute(node, "axis", 0) % len(y.shape)
    return [*ops, Concat(name=node_name(node), inputs=tuple(names), outputs=(y.name,), axis=axis)]


FUNCTIONS_FIRST = ("Mul", "Sub", "QLinearMul")
"""Operators read as a function of one tensor where they are one (x * Sigmoid(x)), else by their rule below."""

QDQ_RULES: dict[str, QdqRule] = {
    "Conv": _qdq_conv,
    "ConvTranspose": _qdq_conv_transpose,
    "Gemm": _qdq_gemm,
    "MatMul": _qdq_matmul,
    "Add": _qdq_add,
    "Mul": _qdq_pair,
    "Sub": _qdq_pair,
    "AveragePool": _qdq_average,
    "GlobalAveragePool": _qdq_global_average,
    "ReduceMean": _qdq_mean,
    "Pad": _qdq_pad,
    "Concat": _qdq_concat,
}
"""Float operators of the standard domain, read together with the QuantizeLinear after them."""

OPERATOR_RULES: dict[tuple[str, str], OperatorRule] = {
    ("", "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("com.microsoft", "QGemm"): _qgemm,
    ("com.microsoft", "QLinearAdd"): _qlinear_add,
    ("com.microsoft", "QLinearMul"): _qlinear_mul,
    ("com.microsoft", "QLinearAveragePool"): _qlinear_average,
    ("com.microsoft", "QLinearGlobalAveragePool"): _qlinear_global_average,
    ("com.microsoft", "QLinearConcat"): _qlinear_concat,
}
"""QOperator nodes by (domain, operator)."""
