"""Networks of integers held in float tensors (NEMO, DORY) to QOperator nodes, where equality can be proved.

Their layer is a Conv, MatMul or Gemm with integer weights, then elementwise nodes that floor and clip the sums:
``clip(floor((acc * m + b) / d), 0, 255)``, ``m`` and ``b`` one for each channel. Nothing in it states a scale or a
type; what is known is that every Clip leaves an integer of 0 to 255. Here such a chain becomes QuantizeLinear (scale 1,
zero point 0), QLinearConv or QGemm, and DequantizeLinear, all of which `hwq.onnx_reader` then reads as in any model,
and an `hwq.ir.Floor` that takes the place of their rounding.

The chain is taken as ONNX Runtime computes it, its float32 roundings included: `hwq.staircase` finds the integers and
proves them for all sums the layer's inputs can make. Where float32 has moved single sums off every line, a chain whose
constants are integers and which divides in an integer type is taken as the exact integers it stands for, and the
report counts those sums. Any other layer with such a channel stays as it is, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hwq.ir import Array, Floor
from hwq.onnx_carriers import data_inputs, is_carrier, node_name
from hwq.onnx_constraints import (
    StaysOnHost,
    constraint_exact_float_sum,
    constraint_integer_input,
    constraint_short_weights,
    constraint_steps_fit,
    present,
    require,
)
from hwq.onnx_load import Source
from hwq.onnx_steps import StepChain
from hwq.onnx_values import attribute, operand
from hwq.staircase import Line, Staircase, fit, staircases

LEVEL_MAX = 255
_PLAIN_GEMM = (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
_EXACT_SUM = 1 << 24


@dataclass(slots=True)
class Rewritten:
    """What `rewrite_integer_layers` did.

    Members
    -------
    rewrites : list of str
        One line for each layer turned into integer operators, and for each input taken as integers.
    reasons : dict of str to str
        Why a layer stays on the host, by the names of its nodes' outputs.
    floors : dict of str to (Floor, (int, int))
        By the integer operators' outputs, what rounds in place of what they state, and the bounds of the results.
    """

    rewrites: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    floors: dict[str, tuple[Floor, tuple[int, int]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Layer:
    """An integer matrix product and the nodes down to its Clip."""

    node: onnx.NodeProto
    chain: StepChain
    weight: Array  # (outputs, inputs / groups, ...), int64
    bias: Array  # (outputs,), int64

    @property
    def output(self) -> str:
        return self.chain.nodes[-1].output[0]


def rewrite_integer_layers(source: Source) -> Rewritten:
    """Replace the integer layers of `source`, in place, by QOperator nodes that equal them; see the module."""
    result = Rewritten()
    layers = {id(node): layer for node in source.nodes if (layer := _find_layer(source, node)) is not None}
    if not layers:
        return result
    writer = _Writer(source, result)
    integers = _integer_tensors(source, list(layers.values()))
    at_end: dict[int, list[onnx.NodeProto]] = {}
    dropped: set[int] = set()
    for node in list(source.nodes):
        layer = layers.get(id(node))
        if layer is not None:
            try:
                require(constraint_integer_input, node.input[0] in integers)
                require(constraint_exact_float_sum, _largest_sum(layer))
                at_end[id(layer.chain.nodes[-1])] = writer.layer(layer)
                dropped |= {id(node), *(id(step) for step in layer.chain.nodes)}
            except StaysOnHost as broken:
                names = [node.output[0], *(step.output[0] for step in layer.chain.nodes)]
                result.reasons |= dict.fromkeys(names, str(broken))
        writer.nodes += at_end.get(id(node), [])
        if id(node) not in dropped:
            writer.carry(node)
    source.nodes[:] = writer.nodes
    source.producers.clear()
    source.producers.update({name: node for node in writer.nodes for name in node.output if name})
    return result


# Recognition ----------------------------------------------------------------------------------------------------------


def _find_layer(source: Source, node: onnx.NodeProto) -> _Layer | None:
    if node.domain or node.op_type not in ("Conv", "MatMul", "Gemm"):
        return None
    weight, bias_name = source.constants.get(node.input[1]), operand(node, 2)
    if weight is None or weight.dtype != np.float32 or not _is_integer(weight):
        return None
    if node.op_type != "Conv":
        if weight.ndim != 2 or len(source.types[node.input[0]][0]) != 2:
            return None
        weight = weight if attribute(node, "transB", 0) else weight.T
    if node.op_type == "Gemm" and ([attribute(node, name, default) for name, default in _PLAIN_GEMM] != [1, 1, 0]):
        return None
    bias = source.constants.get(bias_name) if bias_name else np.zeros(len(weight), np.float32)
    if bias is None or bias.shape != (len(weight),) or not _is_integer(bias):
        return None
    chain = StepChain.follow(source, node, len(weight))
    if chain is None or not chain.makes_levels(LEVEL_MAX):
        return None
    return _Layer(node, chain, weight.astype(np.int64), bias.astype(np.int64))


def _is_integer(value: Array) -> bool:
    return bool(np.all(np.isfinite(value)) and np.all(value == np.rint(value)) and np.all(np.abs(value) < _EXACT_SUM))


def _integer_tensors(source: Source, layers: list[_Layer]) -> set[str]:
    """Return the float tensors that hold integers of 0 to 255: clipped levels, views and maxima of them, and inputs."""
    known = {layer.output for layer in layers} | {name for name in source.inputs if source.types[name][1] == "float32"}
    for node in source.nodes:
        if _carries(node) and all(name in known for name in data_inputs(node)):
            known.add(node.output[0])
    return known


def _carries(node: onnx.NodeProto) -> bool:
    """Whether a node's results are among its inputs' values."""
    return is_carrier(node) and node.op_type != "Pad" and len(node.output) == 1


def _largest_sum(layer: _Layer) -> int:
    """Return a bound of every partial sum of a layer."""
    magnitudes = np.abs(layer.weight).reshape(len(layer.weight), -1).sum(axis=1)
    return int((magnitudes * LEVEL_MAX + np.abs(layer.bias)).max())


# Fitting --------------------------------------------------------------------------------------------------------------


def _fit_channels(layer: _Layer) -> tuple[Floor, int]:
    """Return the layer's requantization, and how many levels of how many sums float32 moves in ONNX Runtime."""
    flat = layer.weight.reshape(len(layer.weight), -1)
    low = np.minimum(flat, 0).sum(axis=1) * LEVEL_MAX + layer.bias
    high = np.maximum(flat, 0).sum(axis=1) * LEVEL_MAX + layer.bias
    chain = layer.chain
    require(constraint_steps_fit, layer if chain.holds(low, high) else None)
    least, greatest = chain.bounds
    computed = staircases(lambda acc: chain.levels(acc) - least, low, high, greatest - least)
    lines = [fit(steps) for steps in computed]
    moved = 0
    if None in lines and chain.is_integer:
        exact = staircases(lambda acc: chain.exact_levels(acc) - least, low, high, greatest - least)
        for channel in (channel for channel, line in enumerate(lines) if line is None):
            lines[channel] = fit(exact[channel])
            moved += _difference(computed[channel], exact[channel])
    found: list[Line] = [present(constraint_steps_fit, line) for line in lines]
    floor = Floor(
        multiplier=np.array([line.multiplier for line in found], np.int64),
        offset=np.array([line.offset + (least << line.shift) for line in found], np.int64),
        shift=np.array([line.shift for line in found], np.int64),
    )
    return floor, moved


def _difference(a: Staircase, b: Staircase) -> int:
    """Return by how many levels two staircases over the same arguments differ, over all arguments."""
    ends = [
        np.concatenate([[s.low] * s.base, s.thresholds, [s.high + 1] * (s.most - s.top)]).astype(np.int64)
        for s in (a, b)
    ]
    return int(np.abs(ends[0] - ends[1]).sum())


class _Writer:
    """Makes the nodes and constants of the layers that are proved."""

    def __init__(self, source: Source, result: Rewritten) -> None:
        self.source, self.result = source, result
        self.levels: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.unit = [self._constant("levels/scale", np.float32(1)), self._constant("levels/zero_point", np.uint8(0))]

    def layer(self, layer: _Layer) -> list[onnx.NodeProto]:
        """Return the nodes that make a layer's output; add those that make its input."""
        node, outputs = layer.node, len(layer.weight)
        is_conv = node.op_type == "Conv"
        dtype = present(constraint_short_weights, _weight_dtype(layer.weight))
        floor, moved = _fit_channels(layer)
        name = node_name(node)
        constants = [
            self._constant(f"{name}/weight", layer.weight.astype(dtype)),
            self._constant(f"{name}/weight_scale", np.ones(outputs, np.float32)),
            self._constant(f"{name}/weight_zero_point", dtype(0) if is_conv else np.zeros(outputs, dtype)),
        ]
        bias_name = self._constant(f"{name}/bias", layer.bias.astype(np.int32))
        x = self._input(node.input[0])
        y = self._levels(layer.output)
        if is_conv:
            inputs = [x, *self.unit, *constants, *self.unit, bias_name]
            made = helper.make_node("QLinearConv", inputs, [y], name=name)
            made.attribute.extend(node.attribute)
        else:
            inputs = [x, *self.unit, *constants, bias_name, *self.unit]
            made = helper.make_node("QGemm", inputs, [y], name=name, domain="com.microsoft", transB=1)
        self.source.opset.setdefault(made.domain, 1)
        self.result.floors[y] = floor, layer.chain.bounds
        self.result.rewrites.append(_line(name, len(layer.chain.nodes), moved))
        return [made, helper.make_node("DequantizeLinear", [y, *self.unit], [layer.output], name=f"{name}/floats")]

    def carry(self, node: onnx.NodeProto) -> None:
        """Add a node of the model; where it only carries levels along, tell the reader that so are its results."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        self.nodes.append(copy)
        if _carries(node) and all(name in self.levels for name in data_inputs(node)):
            name = node.output[0]
            y, copy.output[0] = self._levels(name), self._tensor(f"{name}/same", *self.source.types[name])
            self.nodes.append(helper.make_node("QuantizeLinear", [copy.output[0], *self.unit], [y], name=y))
            restore = helper.make_node("DequantizeLinear", [y, *self.unit], [name], name=f"{name}/floats")
            self.nodes.append(restore)

    def _input(self, name: str) -> str:
        """Return the integer twin of a float tensor; quantize it where it has none yet."""
        if name not in self.levels:
            if name in self.source.inputs:
                line = f"{name}: taken as integers of 0 to {LEVEL_MAX}, as the layers' results are"
                self.result.rewrites.append(line)
            y = self._levels(name)
            self.nodes.append(helper.make_node("QuantizeLinear", [name, *self.unit], [y], name=y))
        return self.levels[name]

    def _levels(self, name: str) -> str:
        self.levels[name] = self._tensor(f"{name}/levels", self.source.types[name][0], "uint8")
        return self.levels[name]

    def _tensor(self, base: str, shape: tuple[int, ...], dtype: str) -> str:
        name, count = base, 1
        while name in self.source.types:
            count += 1
            name = f"{base}_{count}"
        self.source.types[name] = (shape, dtype)
        return name

    def _constant(self, base: str, value: Any) -> str:
        array = np.asarray(value)
        name = self._tensor(base, array.shape, array.dtype.name)
        self.source.constants[name] = array
        return name


def _weight_dtype(weight: Array) -> type[np.int8] | type[np.uint8] | None:
    """Return the 8-bit type that holds `weight`, None if neither does."""
    for dtype in (np.int8, np.uint8):
        if np.iinfo(dtype).min <= weight.min() and weight.max() <= np.iinfo(dtype).max:
            return dtype
    return None


def _line(name: str, steps: int, moved: int) -> str:
    but = f" but for {moved} sums, which float32 moves to the next level in ONNX Runtime" if moved else ""
    return f"{name}: {steps} nodes that floor and clip its integer sums taken as one requantization, proved equal{but}"
