"""What of a prepared float model is quantized: its layers, and the tensors between them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwq.ir import Array
from hwq.quantize.prepare import constants

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that become layers of integer weights where their weights are constants."""

CARRIERS = frozenset(
    {"MaxPool", "Concat", "Pad", "Slice", "Split", "Resize", "Expand", "DepthToSpace", "SpaceToDepth", "Identity"}
    | {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
)
"""Operators that only move values: their tensors share one scale, so that nothing is computed."""

POOLS = frozenset({"AveragePool", "GlobalAveragePool"})

_PAIRS = frozenset({"Add", "Sub", "Mul"})

_FUNCTIONS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu", "Selu", "Gelu", "Softplus"}
)

_CLAMPS = frozenset({"Relu", "Clip"})


@dataclass(frozen=True, eq=False)
class Layer:
    """A node with constant weights.

    Members
    -------
    node : onnx.NodeProto
    output : str
        Its sums, bias included: the node's own output, or that of the Add which follows a MatMul.
    weight : float32 array
        As the operator takes it.
    axis : int
        Of the output channels in `weight`.
    groups : int
    bias : float32 (O,)
    add : onnx.NodeProto or None
        What holds a MatMul's bias.
    """

    node: onnx.NodeProto
    output: str
    weight: Array
    axis: int
    groups: int
    bias: Array
    add: onnx.NodeProto | None = None

    @property
    def name(self) -> str:
        """The node's."""
        return self.node.name

    @property
    def input(self) -> str:
        """What the weights multiply."""
        return self.node.input[0]

    @property
    def kernels(self) -> Array:
        """The weights of one output channel a row, (O, K)."""
        return np.moveaxis(self.weight, self.axis, 0).reshape(len(self.bias), -1)

    def from_kernels(self, kernels: Array) -> Array:
        """Return (O, K) in the shape of `weight`."""
        moved = np.moveaxis(self.weight, self.axis, 0).shape
        return np.ascontiguousarray(np.moveaxis(kernels.reshape(moved), 0, self.axis))

    def with_values(self, kernels: Array, bias: Array) -> Layer:
        """Return the layer with other weights, (O, K), and biases, (O,)."""
        weight = self.from_kernels(np.asarray(kernels, np.float32))
        return replace(self, weight=weight, bias=np.asarray(bias, np.float32))


@dataclass(frozen=True, eq=False)
class Network:
    """A prepared model and what of it becomes integers.

    Members
    -------
    model : onnx.ModelProto
        Of floats.
    layers : dict of str to Layer
        By node name, in order.
    tensors : dict of str to str
        Every tensor to quantize, in order of appearance, and the first of those that share its scale.
    clamps : dict of str to onnx.NodeProto
        Relu and Clip nodes that ride in the layer before them, by output.
    shapes : dict of str to tuple of int
    """

    model: onnx.ModelProto
    layers: dict[str, Layer]
    tensors: dict[str, str]
    clamps: dict[str, onnx.NodeProto]
    shapes: dict[str, tuple[int, ...]]

    def quantized(self, name: str) -> str:
        """Return the tensor as which `name` is quantized: itself, or what its clamp makes of it."""
        return next((output for output, node in self.clamps.items() if node.input[0] == name), name)


def with_layers(network: Network, layers: Mapping[str, Layer]) -> onnx.ModelProto:
    """Return the float model with the weights and biases of `layers`, by node name, in place of its own."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    adds = {layer.add.name: layer for layer in layers.values() if layer.add is not None}
    for node in model.graph.node:
        if node.name in layers:
            layer = layers[node.name]
            node.input[1] = f"{layer.name}_changed_weight"
            model.graph.initializer.append(numpy_helper.from_array(layer.weight, node.input[1]))
            if layer.add is None:
                del node.input[2:]
                node.input.append(f"{layer.name}_changed_bias")
        if node.name in adds:
            layer = adds[node.name]
            node.input[:] = [layer.node.output[0], f"{layer.name}_changed_bias"]
    biases = [numpy_helper.from_array(layer.bias, f"{layer.name}_changed_bias") for layer in layers.values()]
    model.graph.initializer.extend(biases)
    return model


def analyse(model: onnx.ModelProto, keep_float: Collection[str] = ()) -> Network:
    """Find what of a prepared model to quantize.

    Parameters
    ----------
    model : onnx.ModelProto
        As `hwq.quantize.prepare.prepare` returns it.
    keep_float : collection of str
        Nodes, by name or by the tensor they make, that go on computing with floats.
    """
    graph = model.graph
    values = constants(graph)
    kept = {node.name for node in graph.node if {node.name, *node.output} & set(keep_float)}
    layers = _layers(graph, values, kept)
    inside = {layer.add.name for layer in layers.values() if layer.add is not None}
    integer = [node for node in graph.node if node.name not in kept | inside and _is_integer(node, layers, values)]
    infos = [*graph.input, *graph.value_info, *graph.output]
    shapes = {info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim) for info in infos}
    floats = {info.name for info in infos if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    clamps = _clamps(graph, integer, {layer.output for layer in layers.values()}, kept)
    absorbed = {node.input[0] for node in clamps.values()}
    results = {node.name: [layers[node.name].output] if node.name in layers else list(node.output) for node in integer}
    tensors: dict[str, str] = {}
    for node in integer:
        for name in [*node.input, *results[node.name]]:
            if name in floats and name not in values and name not in absorbed:
                tensors.setdefault(name, name)
    for node in integer:
        if node.op_type in CARRIERS:
            _share(tensors, [name for name in [*node.input, *node.output] if name in tensors])
    return Network(model, layers, tensors, clamps, shapes)


def _layers(graph: onnx.GraphProto, values: dict[str, Array], kept: set[str]) -> dict[str, Layer]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    layers = {}
    for node in graph.node:
        if node.op_type not in LAYERS or node.name in kept or len(node.input) < 2 or node.input[1] not in values:
            continue
        if len(node.input) > 2 and node.input[2] not in values:
            continue
        weight = values[node.input[1]]
        groups = next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "group"), 1)
        axis = {"Conv": 0, "Gemm": 0, "ConvTranspose": 1, "MatMul": 1}[node.op_type]
        if node.op_type == "MatMul" and weight.ndim != 2:
            continue
        if node.op_type == "Gemm" and not any(entry.name == "transB" and entry.i for entry in node.attribute):
            continue
        if node.op_type == "ConvTranspose" and groups != 1:
            continue
        outputs = weight.shape[axis]
        bias = values[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(outputs, np.float32)
        output, add = node.output[0], None
        after = readers.get(output, [])
        if node.op_type == "MatMul" and len(after) == 1 and after[0].op_type == "Add" and after[0].name not in kept:
            (other,) = [name for name in after[0].input if name != output] or [""]
            if other in values and values[other].shape == (outputs,):
                add, bias, output = after[0], values[other], after[0].output[0]
        if node.op_type == "MatMul" and add is None:
            continue
        layers[node.name] = Layer(node, output, weight, axis, groups, bias, add)
    return layers


def _is_integer(node: onnx.NodeProto, layers: dict[str, Layer], values: dict[str, Array]) -> bool:
    if node.op_type in LAYERS:
        return node.name in layers
    if node.op_type in _PAIRS:
        return all(name not in values or values[name].size == 1 for name in node.input)
    return node.op_type in CARRIERS | POOLS | _FUNCTIONS


def _clamps(
    graph: onnx.GraphProto, integer: list[onnx.NodeProto], sums: set[str], kept: set[str]
) -> dict[str, onnx.NodeProto]:
    """Return, by output, the Relu and Clip nodes that are all that reads a layer's or a pair's result."""
    sums = sums | {node.output[0] for node in integer if node.op_type in _PAIRS}
    outputs = {output.name for output in graph.output}
    reads = [name for node in graph.node for name in node.input]
    clamps = {}
    for node in graph.node:
        if node.op_type in _CLAMPS and node.name not in kept:
            name = node.input[0]
            if name in sums and reads.count(name) == 1 and name not in outputs:
                clamps[node.output[0]] = node
    return clamps


def _share(tensors: dict[str, str], names: list[str]) -> None:
    roots = {tensors[name] for name in names}
    first = next((name for name in tensors if name in roots), None)
    for name, root in tensors.items():
        if root in roots and first is not None:
            tensors[name] = first


def clamp_bounds(node: onnx.NodeProto, values: dict[str, Array]) -> tuple[float, float] | None:
    """Return the bounds of a Relu or Clip node, None where they aren't constants."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    bounds = [-math.inf, math.inf]
    for index, name in enumerate(node.input[1:3]):
        if name and name not in values:
            return None
        if name:
            bounds[index] = float(values[name])
    return bounds[0], bounds[1]
