"""QDQ models out: quantized tensors between QuantizeLinear and DequantizeLinear, weights and biases as integers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwq.errors import ModelError
from hwq.ir import Array
from hwq.quantize.network import Layer, Network, clamp_bounds
from hwq.quantize.nf4 import BLOCK
from hwq.quantize.prepare import constants

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False)
class Weights:
    """A layer's weights as integers.

    Members
    -------
    values : int8 (O, K)
        Rows as `Layer.kernels`; the zero point is 0.
    scale : float32 (O,)
    bits : int
        8, or at most 4.
    bias : float32 (O,)
        Of the layer's sums, not yet rounded.
    factors : uint8 (O, blocks) or None
        Of each `BLOCK` inputs, times `scale`.
    """

    values: Array
    scale: Array
    bits: int
    bias: Array
    factors: Array | None = None


@dataclass(eq=False)
class Grid:
    """What a network is quantized to.

    Members
    -------
    tensors : dict of str to (float32, int)
        Scale and zero point of every quantized tensor, unsigned.
    weights : dict of str to Weights
        By layer; layers that aren't in it keep their float weights.
    bits : dict of str to int
        Of quantized tensors, 4 or 8; tensors that aren't in it have 8.
    """

    tensors: dict[str, tuple[np.float32, int]]
    weights: dict[str, Weights] = field(default_factory=dict)
    bits: dict[str, int] = field(default_factory=dict)

    def top(self, name: str) -> int:
        """Return the greatest integer of a quantized tensor."""
        return (1 << self.bits.get(name, 8)) - 1


def dequantized(name: str) -> str:
    """Return what readers of the quantized tensor `name` read in a QDQ model."""
    return f"{name}_dequantized"


def emit(network: Network, grid: Grid) -> onnx.ModelProto:
    """Return `network` as a QDQ model on `grid`.

    A layer without weights there is a float layer between quantized tensors. Relu and Clip leave no node where
    saturation does what they do.
    """
    writer = _Writer(network, grid)
    for node in network.model.graph.node:
        writer.add(node)
    return writer.model()


class _Writer:
    def __init__(self, network: Network, grid: Grid):
        self.network, self.grid = network, grid
        self.constants = constants(network.model.graph)
        self.made: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.outputs = {output.name for output in network.model.graph.output}
        self.biases = {layer.add.name: layer for layer in network.layers.values() if layer.add is not None}
        for info in network.model.graph.input:
            if info.name in network.tensors:
                self.quantize(info.name, info.name)

    def add(self, node: onnx.NodeProto) -> None:
        layer = self.network.layers.get(node.name) or self.biases.get(node.name)
        if node.output[0] in self.network.clamps and self.saturates(node):
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self.network.tensors:
                copy.input[index] = dequantized(name)
        if layer is not None:
            self.set_weights(copy, layer)
        made = []
        for index, name in enumerate(node.output):
            target = self.target(name)
            if target in self.network.tensors:
                copy.output[index] = f"{target}_float"
                made.append(target)
        self.nodes.append(copy)
        for name in made:
            self.quantize(name, f"{name}_float")

    def target(self, name: str) -> str:
        """Return the quantized tensor that `name` is the float value of, through a clamp that leaves no node."""
        after = self.network.quantized(name)
        return after if after == name or self.saturates(self.network.clamps[after]) else name

    def saturates(self, node: onnx.NodeProto) -> bool:
        """Return whether the quantizer after a clamp clamps as much."""
        bounds = clamp_bounds(node, self.constants)
        if bounds is None or node.output[0] not in self.grid.tensors:
            return False
        scale, zero_point = self.grid.tensors[node.output[0]]
        return bounds[0] <= -zero_point * float(scale) and bounds[1] >= (
            self.grid.top(node.output[0]) - zero_point
        ) * float(scale)

    def set_weights(self, node: onnx.NodeProto, layer: Layer) -> None:
        """Put what `node` has of the layer's constants in their place: the weights, the bias, or both."""
        weights = self.grid.weights.get(layer.name)
        if node.name == layer.name:
            node.input[1] = self.weight(layer, weights)
            if layer.add is None:
                del node.input[2:]
                node.input.append(self.bias(layer, weights))
        else:
            index = next(index for index, name in enumerate(node.input) if name in self.constants)
            node.input[index] = self.bias(layer, weights)

    def weight(self, layer: Layer, weights: Weights | None) -> str:
        if weights is None:
            return self.constant(f"{layer.name}_weight", layer.weight)
        kind = TensorProto.INT4 if weights.bits <= 4 else TensorProto.INT8
        values = layer.from_kernels(weights.values)
        if weights.factors is not None:
            return self.blocked_weight(f"{layer.name}_weight", values, weights.factors * weights.scale[:, None], layer)
        return self.constant_weight(f"{layer.name}_weight", values, kind, weights.scale, layer.axis)

    def bias(self, layer: Layer, weights: Weights | None) -> str:
        if weights is None:
            return self.constant(f"{layer.name}_bias", layer.bias)
        scale = self.grid.tensors[layer.input][0] * weights.scale
        values = np.rint(weights.bias.astype(np.float64) / scale)
        stored = np.clip(values, _INT32.min, _INT32.max).astype(np.int32)
        return self.constant_weight(f"{layer.name}_bias", stored, TensorProto.INT32, scale, 0)

    def constant(self, name: str, value: Array) -> str:
        self.made.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def constant_weight(self, name: str, values: Array, kind: int, scale: Array, axis: int) -> str:
        """Add an integer constant behind DequantizeLinear, one scale a channel."""
        scale_name, output = self.constant(f"{name}_scale", scale.astype(np.float32)), f"{name}_dequantized"
        inputs = [self.integers(f"{name}_quantized", values, kind), scale_name]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=axis))
        return output

    def integers(self, name: str, values: Array, kind: int) -> str:
        return self.constant(name, np.asarray(values).astype(helper.tensor_dtype_to_np_dtype(kind)))

    def blocked_weight(self, name: str, values: Array, scale: Array, layer: Layer) -> str:
        """Add a weight behind DequantizeLinear, with a scale (O, blocks) for each block of an output's inputs."""
        shape = (*scale.shape, *layer.weight.shape[2:]) if layer.axis == 0 else scale.shape
        wide = np.broadcast_to(scale.reshape(*scale.shape, *(1,) * (len(shape) - 2)), shape).astype(np.float32)
        scales = self.constant(f"{name}_scale", np.moveaxis(wide, 0, layer.axis))
        output, stored = f"{name}_dequantized", self.constant(f"{name}_quantized", values)
        inputs, axis = [stored, scales], 1 - layer.axis
        node = helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=axis, block_size=BLOCK)
        self.nodes.append(node)
        return output

    def quantize(self, name: str, source: str) -> None:
        scale, zero_point = self.grid.tensors[name]
        kind = TensorProto.UINT8 if self.grid.top(name) == 255 else TensorProto.UINT4
        parameters = [
            self.constant(f"{name}_scale", np.asarray(scale, np.float32)),
            self.integers(f"{name}_zero_point", np.asarray(zero_point), kind),
        ]
        stored, restored = f"{name}_quantized", dequantized(name)
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *parameters], [stored], name=stored))
        self.nodes.append(helper.make_node("DequantizeLinear", [stored, *parameters], [restored], name=restored))
        if name in self.outputs:
            self.nodes[-1].output[0] = name
            self.nodes.append(helper.make_node("DequantizeLinear", [stored, *parameters], [restored], name=restored))

    def model(self) -> onnx.ModelProto:
        original = self.network.model
        read = {name for node in self.nodes for name in node.input}
        nodes = [node for node in self.nodes if self._is_read(node, read)]
        read = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in [*original.graph.initializer, *self.made] if tensor.name in read | self.outputs]
        self._refuse_clashes(nodes, kept)
        graph = helper.make_graph(
            nodes, original.graph.name, list(original.graph.input), list(original.graph.output), kept
        )
        return helper.make_model(
            graph, opset_imports=list(original.opset_import), ir_version=original.ir_version, producer_name="hwq"
        )

    def _refuse_clashes(self, nodes: list[onnx.NodeProto], kept: list[onnx.TensorProto]) -> None:
        named = [name for node in nodes for name in node.output] + [tensor.name for tensor in kept]
        clash = next((name for name, count in Counter(named).items() if count > 1), None)
        if clash is not None:
            graph = self.network.model.graph.name
            raise ModelError(f"{graph}: {clash!r} is the name of a tensor already: rename it in the float model")

    def _is_read(self, node: onnx.NodeProto, read: set[str]) -> bool:
        return any(name in read | self.outputs for name in node.output)
