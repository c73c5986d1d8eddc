"""Integer layers seen from below: the sums of a Conv, MatMul or Gemm, and the float nodes after it.

The nodes may be any that compute each element from one sum and constants, one a channel: BatchNormalization, Mul, Add,
Sign, Relu. `hwq.onnx_functions` reads them together with the quantizer after them. A layer that nothing quantizes is
quantized here, without loss, where its sums fit in 8 bits as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from hwq.ir import Array, Op, Tensor
from hwq.onnx_carriers import node_name
from hwq.onnx_constraints import (
    constraint_bias_in_range,
    constraint_plain_gemm,
    constraint_quantized_input,
    present,
    require,
)
from hwq.onnx_operators import build_conv, build_gemm, constant_vector, per_output, qdq_weight
from hwq.onnx_values import Quantized, Values, attribute, operand

LAYERS = ("Conv", "MatMul", "Gemm")

_ARITHMETIC = """
    Abs Add BatchNormalization Cast Ceil Clip Div Equal Floor Greater GreaterOrEqual Identity Less LessOrEqual
    LeakyRelu Max Min Mul Neg Not PRelu Relu Round Sign Sub ThresholdedRelu Where
"""
_EXACT = frozenset(_ARITHMETIC.split())
"""Operators that IEEE arithmetic defines: the result doesn't depend on an element's place or on the processor."""

_EXACT_SUM = 1 << 24
_NODE_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Sum:
    """An integer layer and the elementwise nodes after it.

    Members
    -------
    node : onnx.NodeProto
        Conv, MatMul or Gemm.
    nodes : list of onnx.NodeProto
        In order; the first reads the layer's output, the last writes the function's value.
    x : Tensor
    weight : Quantized
        Its outputs lie on `axis`.
    axis : int
    scale, zero_point : float32, int64 (O,)
        Of the weight.
    bias : float32 (O,), or None
    """

    node: onnx.NodeProto
    nodes: list[onnx.NodeProto]
    x: Tensor
    weight: Quantized
    axis: int
    scale: Array
    zero_point: Array
    bias: Array | None

    @property
    def centred(self) -> Array:
        """Weights less their zero points, int64, outputs first."""
        rows = np.moveaxis(self.weight.values.astype(np.int64), self.axis, 0)
        return rows - self.zero_point.reshape(-1, *(1,) * (rows.ndim - 1))

    @property
    def unit(self) -> Array:
        """Value of a sum of 1, float32 (O,)."""
        return np.float32(self.x.scale) * self.scale

    def negated(self, chosen: Array) -> tuple[Array, Array]:
        """Return weight and zero point with the sums of the `chosen` outputs, bool (O,), negated."""
        weight, shape = self.weight.values, [1] * self.weight.values.ndim
        shape[self.axis] = -1
        least = self.centred.reshape(len(self.scale), -1).min(axis=1)
        plain = (self.zero_point == 0) & (least >= -np.iinfo(np.int8).max) & (weight.dtype == np.int8)
        # The complement negates a value less its zero point, whatever the value.
        opposite = np.where(plain.reshape(shape), -weight, ~weight)
        complement = np.where(plain, 0, ~self.zero_point.astype(weight.dtype))
        weight = np.where(chosen.reshape(shape), opposite, weight).astype(weight.dtype)
        return weight, np.where(chosen, complement, self.zero_point)

    def is_exact(self, low: Array, high: Array) -> bool:
        """Whether float32 holds the layer's results as they are: no product and no sum is rounded."""
        mantissas = np.frexp(np.append(self.scale, np.float32(self.x.scale)))[0]
        normal = np.all(self.unit >= np.finfo(np.float32).tiny)
        return bool(normal and np.all(mantissas == 0.5) and max(-int(low.min()), int(high.max())) <= _EXACT_SUM)

    def reach(self, values: Values) -> tuple[Array, Array]:
        """Return the least and the greatest sum of each output, without bias, int64 (O,)."""
        lo, hi = (bound - self.x.zero_point for bound in values.bounds.get(self.x.name, self.x.range))
        lo, hi = min(lo, 0), max(hi, 0)  # padding reads as the zero point
        rows = self.centred.reshape(len(self.scale), -1)
        positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
        return positive * lo + negative * hi, positive * hi + negative * lo


@dataclass(frozen=True, slots=True)
class Quantizer:
    """What quantizes a function of a layer's sums.

    Members
    -------
    node : onnx.NodeProto
        QuantizeLinear or Cast; its first input is the function's value.
    y : Tensor
        What it writes, clamped; quantized.
    clamp : (lo, hi)
    """

    node: onnx.NodeProto
    y: Tensor
    clamp: tuple[int, int]


def find_sum(values: Values, name: str) -> Sum | None:
    """Return the layer that the float tensor `name` is an elementwise function of, None where it isn't one.

    Raises
    ------
    StaysOnHost
        There is such a layer, but an operand of it isn't quantized, or not per output.
    """
    nodes: dict[str, onnx.NodeProto] = {}
    layers: dict[str, onnx.NodeProto] = {}

    def take(entry: str) -> bool:
        if entry in nodes or entry in layers or values.floats(entry) is not None or entry in values.source.constants:
            return True
        node = values.producer(entry)
        if node is None or node.domain or entry in values.twins:
            return False
        if node.op_type in LAYERS:
            layers[entry] = node
            return len(layers) == 1
        if node.op_type not in _EXACT or len(nodes) == _NODE_LIMIT or len([n for n in node.output if n]) != 1:
            return False
        taken = all(take(inner) for inner in node.input if inner)
        nodes[entry] = node
        return taken

    if not take(name) or not layers:
        return None
    (node,) = layers.values()
    return _sum(values, node, list(nodes.values()))


def _sum(values: Values, node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> Sum | None:
    if values.tensors[node.output[0]].dtype != "float32":
        return None
    transposed, bias_name = False, operand(node, 2)
    if node.op_type == "Gemm":
        plain = attribute(node, "beta", 1.0) if attribute(node, "alpha", 1.0) == 1 else 0.0
        require(constraint_plain_gemm, attribute(node, "transA", 0), plain, True)
        transposed = bool(attribute(node, "transB", 0))
    axis = 0 if node.op_type == "Conv" or transposed else 1
    x = present(constraint_quantized_input, values.integer(node.input[0]))
    weight = qdq_weight(values, node.input[1])
    if node.op_type != "Conv" and weight.values.ndim != 2:
        return None
    scale, zero_point = per_output(weight, axis)
    bias = constant_vector(values.floats(bias_name), scale.size) if bias_name else None
    found = Sum(node, nodes, x, weight, axis, scale, zero_point, bias)
    return found if _reads_channels(values, found) else None


def channel_axis(values: Values, layer: Sum) -> tuple[int, int]:
    """Return the rank of the layer's output, and the axis its channels lie on."""
    rank = len(values.tensors[layer.node.output[0]].shape)
    return rank, 1 if layer.node.op_type == "Conv" else rank - 1


def _reads_channels(values: Values, layer: Sum) -> bool:
    """Whether every constant has one value, or one a channel, and the channels' axis is where each node takes it."""
    rank, axis = channel_axis(values, layer)
    for node in layer.nodes:
        if node.op_type == "BatchNormalization":
            if axis != 1 or attribute(node, "training_mode", 0):
                return False
            continue
        for name in node.input:
            constant = values.floats(name) if name not in values.source.constants else values.source.constants[name]
            if constant is None:
                continue
            wide = [index - constant.ndim + rank for index, size in enumerate(constant.shape) if size > 1]
            if constant.ndim > rank or wide not in ([], [axis]):
                return False
    return True


def build_layer(
    values: Values,
    layer: Sum,
    weight: Array,
    scale: Array,
    zero_point: Array,
    bias: Array,
    y: Tensor,
    clamp: tuple[int, int],
) -> list[Op]:
    """Return the layer with other weights, laid out as the model's, and an integer bias."""
    require(constraint_bias_in_range, bias)
    bias = bias.astype(np.int32)
    if layer.node.op_type == "Conv":
        return build_conv(values, layer.node, layer.x, weight, scale, zero_point, bias, y, clamp)
    matrix = weight if layer.axis else weight.T
    return build_gemm(values, layer.node, layer.x, matrix, scale, zero_point, bias, y, clamp, 1.0)


def read_whole_sum(values: Values, layer: Sum) -> tuple[list[Op], onnx.NodeProto] | None:
    """Return the layer with its sums as 8-bit integers, and the DequantizeLinear after it; None where they don't fit.

    The integers' scale is that of a sum of 1, so nothing is rounded and nothing saturates.
    """
    low, high = layer.reach(values)
    unit = layer.unit
    if not layer.is_exact(low, high) or np.any(unit != unit[0]):
        return None
    bias = np.zeros(unit.size) if layer.bias is None else layer.bias / unit.astype(np.float64)
    if np.any(bias != np.rint(bias)):
        return None
    least, most = int((low + bias).min()), int((high + bias).max())
    zero_point = 128 if layer.x.dtype == "uint8" else 0
    if least < -128 or most > 127:
        return None
    output = layer.node.output[0]
    y = values.fresh(f"{output}_quantized", values.tensors[output])
    y = values.tensors[y.name] = replace(y, dtype=layer.x.dtype, scale=float(unit[0]), zero_point=zero_point)
    values.rewrites.append(
        f"{node_name(layer.node)}: its sums, {least} to {most}, taken as 8-bit integers, without loss"
    )
    ops = build_layer(values, layer, layer.weight.values, layer.scale, layer.zero_point, bias, y, y.range)
    names = [y.name]
    for step, value in (("scale", np.array(y.scale, np.float32)), ("zero_point", np.array(y.zero_point, y.dtype))):
        names.append(values.fresh(f"{y.name}/{step}", Tensor(step, (), value.dtype.name)).name)
        values.source.constants[names[-1]] = value
    return ops, helper.make_node("DequantizeLinear", names, [output], name=f"{node_name(layer.node)}/floats")
