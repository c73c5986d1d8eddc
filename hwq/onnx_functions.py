"""Functions of an integer layer's sums, quantized: Conv, BatchNormalization, Relu, QuantizeLinear.

ONNX Runtime computes the nodes after the layer, from the sum's value ``fl(fl(acc) * fl(x_scale * weight_scale))`` to
the quantized level. Where each level begins at one sum, a channel's function is a staircase; `hwq.staircase` finds a
multiplier and an offset that reproduce it for every sum the layer can make, and proves it. Where there are none, as
where ties go to even, an affine function goes into the weight's scale and the bias (`hwq.onnx_folding`).

In a layer whose scales are powers of two and whose sums stay below 2**24, float32 holds the sums exactly: there the
integer layer equals the float one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwq.errors import ModelError
from hwq.host import run_once
from hwq.ir import Array, Floor, Op
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
from hwq.staircase import Line, Staircase, fit, staircases

_CHAIN = "Add BatchNormalization Ceil Clip Div Floor Identity Mul Neg Relu Round Sign Sub"
_MONOTONE = frozenset(_CHAIN.split())
"""Operators that never turn back as their one operand that isn't constant grows, float32's rounding included."""


def read_function(values: Values, layer: Sum, quantizer: Quantizer) -> list[Op]:
    """Return the operators of a layer, the function after it and its quantizer; see the module.

    Raises
    ------
    StaysOnHost
        The function is neither a staircase that integers reproduce nor affine.
    """
    try:
        return _steps(values, layer, quantizer)
    except StaysOnHost as broken:
        try:
            return fold(values, layer, quantizer)
        except StaysOnHost:
            raise broken from None


def _steps(values: Values, layer: Sum, quantizer: Quantizer) -> list[Op]:
    low, high = layer.reach(values)
    ends = _levels(values, layer, quantizer, np.stack([low, high], axis=1))
    falling = ends[:, 0] > ends[:, 1]
    lo, hi = int(ends.min()), int(ends.max())
    signs = np.where(falling, -1, 1)[:, np.newaxis]
    first, last = np.where(falling, [-high, -low], [low, high])

    def rising(sums: Array) -> Array:
        return _levels(values, layer, quantizer, sums * signs) - lo

    if _is_monotone(layer, quantizer):
        tabulated = staircases(rising, first, last, max(hi - lo, 1))
    else:
        tabulated = _enumerated(rising, first, last, hi - lo)
    lines: list[Line] = [present(constraint_steps_fit, fit(steps)) for steps in tabulated]
    shift = np.array([line.shift for line in lines], np.int64)
    offset = np.array([line.offset for line in lines], np.int64) + ((lo - quantizer.y.zero_point) << shift)
    floor = Floor(np.array([line.multiplier for line in lines], np.int64), offset, shift)
    weight, zero_point = layer.negated(falling)
    values.floors[quantizer.y.name] = floor, (lo, hi)
    try:
        bias = np.zeros(len(layer.scale))
        made = build_layer(values, layer, weight, layer.scale, zero_point, bias, quantizer.y, (lo, hi))
    except StaysOnHost:
        del values.floors[quantizer.y.name]
        raise
    count = len(layer.nodes) + 1
    values.rewrites.append(
        f"{node_name(layer.node)}: {count} nodes after it taken as one requantization, proved equal for all its sums"
    )
    return made


def _is_monotone(layer: Sum, quantizer: Quantizer) -> bool:
    """Whether the nodes are a chain of monotone ones, for any constants."""
    source = layer.node.output[0]
    for node in layer.nodes:
        dividend = node.op_type not in ("Div", "Clip") or node.input[0] == source
        if node.op_type not in _MONOTONE or list(node.input).count(source) != 1 or not dividend:
            return False
        source = node.output[0]
    return quantizer.node.op_type == "QuantizeLinear" and source == quantizer.node.input[0]


def _enumerated(rising: Callable[[Array], Array], first: Array, last: Array, most: int) -> list[Staircase]:
    """Tabulate functions of any shape by computing them for every sum from `first` to `last`, one of each a channel."""
    count = int((last - first).max()) + 1
    require(constraint_countable_sums, count * len(first))
    sums = np.minimum(first[:, np.newaxis] + np.arange(count), last[:, np.newaxis])
    levels = rising(sums)
    require(constraint_monotone_function, bool(np.all(np.diff(levels, axis=1) >= 0)))
    found = []
    for row, low, high in zip(levels, first.tolist(), last.tolist(), strict=True):
        base, top = int(row[0]), int(row[-1])
        thresholds = low + np.searchsorted(row, np.arange(base + 1, top + 1))
        found.append(Staircase(low, high, base, thresholds.astype(np.int64), max(most, 1)))
    return found


def _levels(values: Values, layer: Sum, quantizer: Quantizer, sums: Array) -> Array:
    """Return what ONNX Runtime makes of sums, and the quantizer's clamp of that, int64 (O, n) of int64 (O, n)."""
    rank, axis = channel_axis(values, layer)
    outputs, count = sums.shape
    is_conv = layer.node.op_type == "Conv"
    if is_conv:
        shape: tuple[int, ...] = (1, outputs, count, *(1,) * (rank - 3))
    else:
        shape, axis = (*(1,) * (rank - 2), count, outputs), max(axis, 1)
    rows = (sums if is_conv else sums.T).astype(np.int32)
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
        levels = run_once(model, {"sum": np.ascontiguousarray(rows).reshape(shape)})["levels"]
    except ModelError:
        raise StaysOnHost(sentence(constraint_known_operator)) from None
    levels = np.clip(levels.astype(np.int64).reshape(rows.shape), *quantizer.clamp)
    return levels if is_conv else levels.T
