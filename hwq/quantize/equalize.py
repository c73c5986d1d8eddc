"""Cross-layer equalization: channels between two layers scaled so that both layers' weights use their range alike.

Nagel et al., 2019: where a layer's output goes through nothing but a Relu into one other layer, channel i of the first
may be divided by any s > 0 and the second's weights for it multiplied by s. With s the root of the ratio of the largest
weights, both ranges become their geometric mean.
"""

from __future__ import annotations

import numpy as np
import onnx

from hwq.ir import Array
from hwq.quantize.network import Layer, Network, analyse, with_layers

_ROUNDS = 20
"""Of a chain of layers, each round moves ranges by one layer at most."""

_SETTLED = 0.01


def equalize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a prepared float model that computes the same with balanced weights."""
    network = analyse(model)
    pairs = _pairs(network)
    layers = dict(network.layers)
    for _ in range(_ROUNDS):
        settled = True
        for first, second in pairs:
            scale = _balance(layers[first].kernels, _by_input(layers[second]))
            settled &= bool(np.all(np.abs(np.log(scale)) < _SETTLED))
            layers[first] = layers[first].with_values(
                layers[first].kernels / scale[:, np.newaxis], layers[first].bias / scale
            )
            layers[second] = _scaled_inputs(layers[second], scale)
        if settled:
            break
    changed = {name for pair in pairs for name in pair}
    return with_layers(network, {name: layers[name] for name in layers if name in changed})


def _pairs(network: Network) -> list[tuple[str, str]]:
    """Return the pairs of layers with nothing but a Relu between them."""
    graph = network.model.graph
    outputs = {output.name for output in graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    pairs = []
    for layer in network.layers.values():
        name = layer.output
        after = readers.get(name, [])
        if len(after) == 1 and after[0].op_type == "Relu" and name not in outputs:
            name = after[0].output[0]
            after = readers.get(name, [])
        if len(after) == 1 and name not in outputs and after[0].name in network.layers and after[0].input[0] == name:
            second = network.layers[after[0].name]
            if _by_input(second).shape[0] == len(layer.bias):
                pairs.append((layer.name, second.name))
    return pairs


def _by_input(layer: Layer) -> Array:
    """Return the weights that each input channel is multiplied by, (I, ...)."""
    if layer.node.op_type == "Conv":
        outputs, inputs, *kernel = layer.weight.shape
        grouped = layer.weight.reshape(layer.groups, outputs // layer.groups, inputs, *kernel)
        return grouped.swapaxes(1, 2).reshape(layer.groups * inputs, -1)
    return np.moveaxis(layer.weight, 1 - layer.axis, 0).reshape(layer.weight.shape[1 - layer.axis], -1)


def _scaled_inputs(layer: Layer, scale: Array) -> Layer:
    weight = layer.weight.copy()
    if layer.node.op_type == "Conv":
        outputs, inputs, *kernel = weight.shape
        grouped = weight.reshape(layer.groups, outputs // layer.groups, inputs, *kernel)
        factors = scale.reshape(layer.groups, 1, inputs, *(1 for _ in kernel))
        weight = (grouped * factors).reshape(weight.shape)
    else:
        weight = np.moveaxis(np.moveaxis(weight, 1 - layer.axis, -1) * scale, -1, 1 - layer.axis)
    kernels = np.moveaxis(weight, layer.axis, 0).reshape(len(layer.bias), -1)
    return layer.with_values(kernels, layer.bias)


def _balance(first: Array, second: Array) -> Array:
    """Return what to divide every channel by, 1 for those that one side doesn't use."""
    made, read = (np.abs(side).max(axis=1).astype(np.float64) for side in (first, second))
    used = (made > 0) & (read > 0)
    return np.where(used, np.sqrt(np.where(used, made, 1) / np.where(used, read, 1)), 1.0)
