"""Layers whose sums pass through float arithmetic before they are quantized: Conv, BatchNormalization, QuantizeLinear.

Between an integer layer and its quantizer may lie any nodes that compute each element from one sum and constants, one
a channel: BatchNormalization, Mul, Add, Sign, Relu. Three readings, tried in this order:

- *Steps.* Where every sum is exact in float32 (scales that are powers of two, sums below 2**24), ONNX Runtime computes
  the nodes for every sum the layer can make. That table, one a channel, is a staircase; `hwq.staircase` finds an
  integer multiple of the weights, a bias and a multiplier that reproduce it for all of them, or proves nothing.
- *Folding.* An affine function, clamped, goes into the weight's scale and the bias, which is rounded to a multiple of
  the sum's scale, as a bias of any other layer is.
- *Steps of the sum's value*, ``fl(fl(acc) * fl(x_scale * weight_scale))``, where the float sum itself is inexact.

A layer that nothing quantizes is quantized without loss where its sums fit in 8 bits as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwq.host import run_once
from hwq.ir import Array, Op, Tensor
from hwq.onnx_carriers import node_name
from hwq.onnx_constraints import (
    StaysOnHost,
    constraint_affine_function,
    constraint_bias_in_range,
    constraint_countable_sums,
    constraint_monotone_function,
    constraint_plain_gemm,
    constraint_quantized_input,
    constraint_steps_fit,
    present,
    require,
)
from hwq.onnx_load import value_info
from hwq.onnx_operators import build_conv, build_gemm, constant_vector, per_output, qdq_weight
from hwq.onnx_values import Params, Quantized, Values, attribute, operand
from hwq.staircase import Fit, Staircase, equals, fit

LAYERS = ("Conv", "MatMul", "Gemm")

_ARITHMETIC = """
    Abs Add BatchNormalization Cast Ceil Clip Div Equal Floor Greater GreaterOrEqual Identity Less LessOrEqual
    LeakyRelu Max Min Mul Neg Not PRelu Relu Round Sign Sub ThresholdedRelu Where
"""
_EXACT = frozenset(_ARITHMETIC.split())
"""Operators that IEEE arithmetic defines: the result doesn't depend on an element's place or on the processor."""

_EXACT_SUM = 1 << 24
_ENUMERATED_MAX = 1 << 24
"""Sums, over all channels, that one layer's steps are computed for."""

_WEIGHT_MAX = 127
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


def _channel_axis(values: Values, layer: Sum) -> tuple[int, int]:
    """Return the rank of the layer's output, and the axis its channels lie on."""
    rank = len(values.tensors[layer.node.output[0]].shape)
    return rank, 1 if layer.node.op_type == "Conv" else rank - 1


def _reads_channels(values: Values, layer: Sum) -> bool:
    """Whether every constant has one value, or one a channel, and the channels' axis is where each node takes it."""
    rank, axis = _channel_axis(values, layer)
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


def read_sum(
    values: Values, layer: Sum, name: str, final: onnx.NodeProto, y: Tensor, clamp: tuple[int, int]
) -> list[Op]:
    """Return the operators that make `y` of a layer and the function after it; see the module.

    Parameters
    ----------
    values : Values
    layer : Sum
    name : str
        The function's value, which `final` reads.
    final : onnx.NodeProto
        QuantizeLinear or Cast; its result, clamped, is `y`.
    y : Tensor
        Quantized.
    clamp : (lo, hi)

    Raises
    ------
    StaysOnHost
        None of the readings holds.
    """
    low, high = layer.reach(values)
    exact = layer.is_exact(low, high)
    if exact:
        try:
            return _steps(values, layer, name, final, y, clamp, low, high)
        except StaysOnHost:
            pass  # the affine reading may still hold
    try:
        return _folded(values, layer, name, final, y, clamp)
    except StaysOnHost:
        if exact:
            raise
    return _steps(values, layer, name, final, y, clamp, low, high)


def read_whole_sum(values: Values, layer: Sum) -> tuple[list[Op], Tensor] | None:
    """Return the layer with an 8-bit result that is its exact sum, and that result; None where it isn't.

    The result's scale is that of a sum of 1, so nothing is rounded and nothing saturates.
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
    return _build(values, layer, layer.weight.values, layer.scale, layer.zero_point, bias, y, y.range), y


def _build(
    values: Values, layer: Sum, weight: Array, scale: Array, zero_point: Array, bias: Array, y: Tensor, clamp: tuple
) -> list[Op]:
    """Return the layer with other weights, laid out as the model's, and an integer bias."""
    require(constraint_bias_in_range, bias)
    bias = bias.astype(np.int32)
    if layer.node.op_type == "Conv":
        return build_conv(values, layer.node, layer.x, weight, scale, zero_point, bias, y, clamp)
    matrix = weight if layer.axis else weight.T
    return build_gemm(values, layer.node, layer.x, matrix, scale, zero_point, bias, y, clamp, 1.0)


# Folding --------------------------------------------------------------------------------------------------------------


def _folded(
    values: Values, layer: Sum, name: str, final: onnx.NodeProto, y: Tensor, clamp: tuple[int, int]
) -> list[Op]:
    require(constraint_affine_function, final.op_type == "QuantizeLinear" and y.scale is not None)
    assert y.scale is not None
    params = Params(y.scale, y.zero_point, y.dtype)
    outputs = len(layer.scale)
    factor, offset = np.ones(outputs), np.zeros(outputs)
    if layer.bias is not None:
        offset += layer.bias
    (lo, hi), clamped, source = clamp, False, layer.node.output[0]
    for node in layer.nodes:
        require(constraint_affine_function, source in node.input)
        if node.op_type in ("Relu", "Clip"):
            require(constraint_affine_function, node.input[0] == source)
            low = 0.0 if node.op_type == "Relu" else values.number(operand(node, 1))
            high = values.number(operand(node, 2)) if node.op_type == "Clip" else None
            lo = lo if low is None else max(lo, params.quantize(low))
            hi = hi if high is None else min(hi, params.quantize(high))
            clamped = True
        else:
            require(constraint_affine_function, not clamped)
            factor, offset = _affine(values, node, source, factor, offset)
        source = node.output[0]
    require(constraint_affine_function, source == name and lo <= hi and bool(np.all(np.abs(factor) > 0)))
    negative = factor < 0
    shape = [1] * layer.weight.values.ndim
    shape[layer.axis] = -1
    # The complement negates a value less its zero point, whatever the value.
    weight = layer.weight.values
    least = layer.centred.reshape(outputs, -1).min(axis=1)
    plain = (layer.zero_point == 0) & (least >= -_WEIGHT_MAX) & (weight.dtype == np.int8)
    opposite = np.where(plain.reshape(shape), -weight, ~weight)
    weight = np.where(negative.reshape(shape), opposite, weight).astype(weight.dtype)
    complement = np.where(plain, 0, ~layer.zero_point.astype(weight.dtype))
    zero_point = np.where(negative, complement, layer.zero_point)
    scale = (layer.scale * np.abs(factor)).astype(np.float32)
    unit = np.float32(layer.x.scale) * scale
    usable = np.isfinite(scale) & (unit >= np.finfo(np.float32).tiny)
    require(constraint_affine_function, bool(np.all(usable)))
    bias = np.rint(offset / unit)
    made = _build(values, layer, weight, scale, zero_point, bias, y, (lo, hi))
    folded = ", ".join(node_name(node) for node in layer.nodes if node.op_type not in ("Relu", "Clip"))
    values.rewrites.append(f"{node_name(layer.node)}: {folded} folded into its scale and bias, the bias rounded")
    return made


def _affine(values: Values, node: onnx.NodeProto, source: str, factor: Array, offset: Array) -> tuple[Array, Array]:
    """Return ``node(factor * sum + offset)`` as another factor and offset, in float64."""

    def constant(position: int) -> Array:
        value = values.floats(node.input[position])
        require(constraint_affine_function, value is not None)
        assert value is not None
        return value.astype(np.float64).reshape(-1)

    if node.op_type == "BatchNormalization":
        gamma, beta, mean, variance = (constant(position) for position in range(1, 5))
        gain = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return factor * gain, (offset - mean) * gain + beta
    if node.op_type == "Identity":
        return factor, offset
    if node.op_type == "Neg":
        return -factor, -offset
    first = node.input[0] == source
    require(constraint_affine_function, node.op_type in ("Mul", "Add", "Sub", "Div") and len(set(node.input)) == 2)
    other = constant(1 if first else 0)
    if node.op_type == "Add":
        return factor, offset + other
    if node.op_type == "Sub":
        return (factor, offset - other) if first else (-factor, other - offset)
    require(constraint_affine_function, node.op_type == "Mul" or (first and bool(np.all(other != 0))))
    return (factor * other, offset * other) if node.op_type == "Mul" else (factor / other, offset / other)


# Steps ----------------------------------------------------------------------------------------------------------------


def _steps(
    values: Values,
    layer: Sum,
    name: str,
    final: onnx.NodeProto,
    y: Tensor,
    clamp: tuple[int, int],
    low: Array,
    high: Array,
) -> list[Op]:
    assert y.scale is not None
    outputs = len(layer.scale)
    first, count = int(low.min()), int(high.max() - low.min()) + 1
    require(constraint_countable_sums, count * outputs)
    levels = np.clip(_levels(values, layer, name, final, y, first, count), *clamp)
    lo, hi = int(levels.min()), int(levels.max())
    largest = np.abs(layer.centred.reshape(outputs, -1)).max(axis=1)
    signs, fits, scales = [], [], []
    for row in range(outputs):
        reached = levels[row, low[row] - first : high[row] - first + 1]
        rising = bool(np.all(np.diff(reached) >= 0))
        require(constraint_monotone_function, rising or bool(np.all(np.diff(reached) <= 0)))
        ends = (int(low[row]), int(high[row])) if rising else (-int(high[row]), -int(low[row]))
        steps = _staircase(reached if rising else reached[::-1], ends, y.zero_point, lo, hi)
        limit = _WEIGHT_MAX // max(int(largest[row]), 1)
        found = present(constraint_steps_fit, fit(steps, range(1, limit + 1)))
        scale = present(constraint_steps_fit, _scale(found, steps, np.float32(layer.x.scale), np.float32(y.scale)))
        signs.append(1 if rising else -1)
        fits.append(found)
        scales.append(scale)
    factors = np.array([found.factor for found in fits]) * signs
    rows = layer.centred * factors.reshape(-1, *(1,) * (layer.weight.values.ndim - 1))
    weight = np.ascontiguousarray(np.moveaxis(rows, 0, layer.axis)).astype(np.int8)
    bias = np.array([found.bias for found in fits], np.float64)
    made = _build(values, layer, weight, np.array(scales, np.float32), np.zeros(outputs, np.int64), bias, y, (lo, hi))
    count = len(layer.nodes) + 1
    values.rewrites.append(
        f"{node_name(layer.node)}: {count} nodes after it taken as one requantization, proved equal for all its sums"
    )
    return made


def _levels(values: Values, layer: Sum, name: str, final: onnx.NodeProto, y: Tensor, first: int, count: int) -> Array:
    """Return what ONNX Runtime makes of the sums `first` and the ``count - 1`` after it, int64 (O, count)."""
    rank, axis = _channel_axis(values, layer)
    outputs = len(layer.scale)
    sums = np.broadcast_to(np.arange(first, first + count, dtype=np.int32), (outputs, count))
    if layer.node.op_type == "Conv":
        shape: tuple[int, ...] = (1, outputs, count, *(1,) * (rank - 3))
    else:
        shape, sums, axis = (*(1,) * (rank - 2), count, outputs), sums.T, max(axis, 1)
    constants = {"scale of the sum": layer.unit}
    nodes = [helper.make_node("DequantizeLinear", ["sum", "scale of the sum"], ["sum in floats"], axis=axis)]
    source = layer.node.output[0]
    if layer.bias is None:
        nodes.append(helper.make_node("Identity", ["sum in floats"], [source]))
    else:
        constants["bias of the sum"] = layer.bias.reshape(-1, *(1,) * (len(shape) - axis - 1))
        nodes.append(helper.make_node("Add", ["sum in floats", "bias of the sum"], [source]))
    last = onnx.NodeProto()
    last.CopyFrom(final)
    last.input[0], last.output[0] = name, "levels"
    for node in [*layer.nodes, last]:
        nodes.append(node)
        for entry in node.input:
            if entry in values.source.constants:
                constants[entry] = values.source.constants[entry]
            elif (value := values.floats(entry)) is not None:
                constants[entry] = value
    graph = helper.make_graph(
        nodes,
        "function of a sum",
        [value_info("sum", shape, "int32")],
        [value_info("levels", shape, y.dtype)],
        [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in constants.items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in {"": 13, **values.source.opset}.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    levels = run_once(model, {"sum": np.ascontiguousarray(sums).reshape(shape)})["levels"]
    levels = levels.astype(np.int64).reshape(sums.shape)
    return levels if layer.node.op_type == "Conv" else levels.T


def _staircase(levels: Array, ends: tuple[int, int], zero_point: int, lo: int, hi: int) -> Staircase:
    """Return rising levels of the arguments `ends`, both included, less the zero point."""
    base, top = int(levels[0]), int(levels[-1])
    thresholds = ends[0] + np.searchsorted(levels, np.arange(base + 1, top + 1))
    return Staircase(*ends, base - zero_point, thresholds.astype(np.int64), lo - zero_point, hi - zero_point)


def _scale(found: Fit, steps: Staircase, x_scale: np.float32, y_scale: np.float32) -> np.float32 | None:
    """Return a weight scale whose multiplier, rounded as the operator rounds it, still fits."""
    scale = np.float32(found.multiplier * y_scale / x_scale)
    multiplier = x_scale * scale / y_scale
    return scale if equals(replace(found, multiplier=multiplier), steps) else None
