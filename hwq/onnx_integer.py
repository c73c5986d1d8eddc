"""Networks of integers held in float tensors (NEMO, DORY) to QOperator nodes, where equality can be proved.

Their layer is a Conv, MatMul or Gemm with integer weights, then elementwise nodes that floor and clip the sums:
``clip(floor((acc * m + b) / d), 0, 255)``, ``m`` and ``b`` one for each channel. Nothing in it states a scale or a
type; what is known is that every Clip leaves an integer of 0 to 255. Here such a chain becomes QuantizeLinear (scale 1,
zero point 0), QLinearConv or QGemm, and DequantizeLinear, all of which `hwq.onnx_reader` then reads as in any model.

The chain is taken as ONNX Runtime computes it, its float32 roundings included. Bias and multiplier come from
`hwq.staircase`, with a proof for all accumulators the layer's inputs can make. Where the fit needs the accumulator
times a factor that the weights can't take within 8 bits, the input is concatenated with itself and each weight spread
over its copies. A layer with a channel that has no such fit stays as it is, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hwq.ir import Array
from hwq.onnx_carriers import data_inputs, is_carrier, node_name
from hwq.onnx_constraints import (
    StaysOnHost,
    constraint_exact_float_sum,
    constraint_few_copies,
    constraint_integer_input,
    constraint_steps_fit,
    constraint_undivided_copies,
    present,
    require,
)
from hwq.onnx_load import Source
from hwq.onnx_steps import StepChain
from hwq.onnx_values import attribute, operand
from hwq.staircase import Fit, fit, staircases

LEVEL_MAX = 255
COPIES_MAX = 16
"""Greatest multiple of a layer's work that its exact requantization may cost."""

_PLAIN_GEMM = (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
_FACTOR_MAX = 256
_WEIGHT_MAX = 127
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
    """

    rewrites: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


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


def _fit_channels(layer: _Layer) -> list[Fit]:
    """Return the fit of every channel."""
    flat = layer.weight.reshape(len(layer.weight), -1)
    low = np.minimum(flat, 0).sum(axis=1) * LEVEL_MAX + layer.bias
    high = np.maximum(flat, 0).sum(axis=1) * LEVEL_MAX + layer.bias
    require(constraint_steps_fit, layer if layer.chain.holds(low, high) else None)
    fits = []
    for steps, largest in zip(staircases(layer.chain.levels, low, high), np.abs(flat).max(axis=1), strict=True):
        limit = min(_FACTOR_MAX, COPIES_MAX * _WEIGHT_MAX // max(int(largest), 1))
        found = fit(steps, range(1, limit + 1))
        if found is None:
            found = fit(steps, range(limit + 1, _FACTOR_MAX + 1))
            require(constraint_few_copies, found is None)
        fits.append(present(constraint_steps_fit, found))
    return fits


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
        groups = attribute(node, "group", 1) if is_conv else 1
        fits = _fit_channels(layer)
        factor = np.array([each.factor for each in fits])
        weight = layer.weight * factor.reshape(-1, *(1,) * (layer.weight.ndim - 1))
        copies = max(-(-int(np.abs(weight).max()) // _WEIGHT_MAX), 1)
        require(constraint_undivided_copies, groups, copies)
        edges = np.arange(copies + 1).reshape(-1, *(1,) * weight.ndim)
        spread = np.diff(weight * edges // copies, axis=0)  # rounded parts that add up to the weight
        bias = layer.bias * factor + [each.bias for each in fits]
        name = node_name(node)
        constants = [
            self._constant(f"{name}/weight", np.concatenate(spread, axis=1).astype(np.int8)),
            self._constant(f"{name}/multiplier", np.array([each.multiplier for each in fits], np.float32)),
            self._constant(f"{name}/weight_zero_point", np.int8(0) if is_conv else np.zeros(outputs, np.int8)),
        ]
        bias_name = self._constant(f"{name}/bias", bias.astype(np.int32))
        x = self._input(node.input[0])
        if copies > 1:
            shape, dtype = self.source.types[x]
            axis = 1 if is_conv else len(shape) - 1
            wide = self._tensor(f"{name}/copies", (*shape[:axis], shape[axis] * copies, *shape[axis + 1 :]), dtype)
            self.nodes.append(helper.make_node("Concat", [x] * copies, [wide], name=wide, axis=axis))
            x = wide
        y = self._levels(layer.output)
        if is_conv:
            inputs = [x, *self.unit, *constants, *self.unit, bias_name]
            made = helper.make_node("QLinearConv", inputs, [y], name=name)
            made.attribute.extend(node.attribute)
        else:
            inputs = [x, *self.unit, *constants, bias_name, *self.unit]
            made = helper.make_node("QGemm", inputs, [y], name=name, domain="com.microsoft", transB=1)
        self.source.opset.setdefault(made.domain, 1)
        self.result.rewrites.append(_line(name, len(layer.chain.nodes), copies))
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


def _line(name: str, steps: int, copies: int) -> str:
    work = f", its input taken {copies} times" if copies > 1 else ""
    return f"{name}: {steps} nodes that floor and clip its integer sums taken as one requantization, proved equal{work}"
