"""Functions of an integer layer's sums, quantized: Conv, BatchNormalization, Relu, QuantizeLinear.

Three readings, tried in this order:

- *Steps.* Where every sum is exact in float32 (scales that are powers of two, sums below 2**24), ONNX Runtime computes
  the nodes for every sum the layer can make. That table, one a channel, is a staircase; `hwq.staircase` finds an
  integer multiple of the weights, a bias and a multiplier that reproduce it for all of them, or proves nothing.
- *Folding.* An affine function, clamped, goes into the weight's scale and the bias (`hwq.onnx_folding`).
- *Steps of the sum's value*, ``fl(fl(acc) * fl(x_scale * weight_scale))``, where the float sum itself is inexact.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwq.errors import ModelError
from hwq.host import run_once
from hwq.ir import Array, Op
from hwq.onnx_carriers import node_name
from hwq.onnx_constraints import (
    StaysOnHost,
    constraint_countable_sums,
    constraint_known_operator,
    constraint_monotone_function,
    constraint_steps_fit,
    present,
    require,
    sentence,
)
from hwq.onnx_folding import fold
from hwq.onnx_load import value_info
from hwq.onnx_sums import Quantizer, Sum, build_layer, channel_axis
from hwq.onnx_values import Values
from hwq.staircase import Fit, Staircase, equals, fit

_WEIGHT_MAX = 127


def read_function(values: Values, layer: Sum, quantizer: Quantizer) -> list[Op]:
    """Return the operators of a layer, the function after it and its quantizer; see the module.

    Raises
    ------
    StaysOnHost
        None of the readings holds.
    """
    exact = layer.is_exact(*layer.reach(values))
    if exact:
        try:
            return _steps(values, layer, quantizer)
        except StaysOnHost:
            pass  # the affine reading may still hold
    try:
        return fold(values, layer, quantizer)
    except StaysOnHost:
        if exact:
            raise
    return _steps(values, layer, quantizer)


def _steps(values: Values, layer: Sum, quantizer: Quantizer) -> list[Op]:
    y = quantizer.y
    low, high = layer.reach(values)
    assert y.scale is not None
    outputs = len(layer.scale)
    first, count = int(low.min()), int(high.max() - low.min()) + 1
    require(constraint_countable_sums, count * outputs)
    levels = np.clip(_levels(values, layer, quantizer, first, count), *quantizer.clamp)
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
    made = build_layer(
        values, layer, weight, np.array(scales, np.float32), np.zeros(outputs, np.int64), bias, y, (lo, hi)
    )
    count = len(layer.nodes) + 1
    values.rewrites.append(
        f"{node_name(layer.node)}: {count} nodes after it taken as one requantization, proved equal for all its sums"
    )
    return made


def _levels(values: Values, layer: Sum, quantizer: Quantizer, first: int, count: int) -> Array:
    """Return what ONNX Runtime makes of the sums `first` and the ``count - 1`` after it, int64 (O, count)."""
    rank, axis = channel_axis(values, layer)
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
    last.CopyFrom(quantizer.node)
    last.output[0] = "levels"
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
        [value_info("levels", shape, quantizer.y.dtype)],
        [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in constants.items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in {"": 13, **values.source.opset}.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    try:
        levels = run_once(model, {"sum": np.ascontiguousarray(sums).reshape(shape)})["levels"]
    except ModelError:
        raise StaysOnHost(sentence(constraint_known_operator)) from None
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
