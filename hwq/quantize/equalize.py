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
from hwq.quantize.samples import Feeds, run_each

_ROUNDS = 20
"""Of a chain of layers, each round moves ranges by one layer at most."""

_SETTLED = 0.01

_TINY = float(np.finfo(np.float32).tiny)


def equalize(model: onnx.ModelProto, feeds: Feeds) -> onnx.ModelProto:
    """Return a prepared float model that computes the same with balanced weights.

    No channel grows beyond what the largest of its tensor reaches on the samples `feeds`: a channel of tiny weights and
    a large bias would take the range of all others with it.
    """
    network = analyse(model)
    pairs = _pairs(network)
    reached = _extents(network, feeds, [middle for _, _, middle in pairs])
    layers = dict(network.layers)
    for _ in range(_ROUNDS):
        settled = True
        for first, second, middle in pairs:
            scale = _balance(layers[first].kernels, _by_input(layers[second]))
            scale = np.maximum(scale, reached[middle] / max(reached[middle].max(), _TINY))
            settled &= bool(np.all(np.abs(np.log(scale)) < _SETTLED))
            reached[middle] /= scale
            layers[first] = layers[first].with_values(
                layers[first].kernels / scale[:, np.newaxis], layers[first].bias / scale
            )
            layers[second] = _scaled_inputs(layers[second], scale)
        if settled:
            break
    changed = {name for first, second, _ in pairs for name in (first, second)}
    return with_layers(network, {name: layers[name] for name in layers if name in changed})


def _extents(network: Network, feeds: Feeds, names: list[str]) -> dict[str, Array]:
    """Return the greatest magnitude of each channel of each tensor over all samples."""
    extents: dict[str, Array] = {}
    for values in run_each(network.model, feeds, names) if names else ():
        for name, value in values.items():
            axis = 1 if value.ndim > 2 else value.ndim - 1
            found = np.abs(np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)).max(axis=1).astype(np.float64)
            extents[name] = np.maximum(extents.get(name, 0.0), found)
    return extents


def _pairs(network: Network) -> list[tuple[str, str, str]]:
    """Return the pairs of convolutions, or of Gemms, with nothing but a Relu between them, and the tensor there."""
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
        if len(after) != 1 or name in outputs or after[0].op_type != layer.node.op_type:
            continue
        if layer.node.op_type in ("Conv", "Gemm") and after[0].name in network.layers:
            pairs.append((layer.name, after[0].name, name))
    return pairs


def _by_input(layer: Layer) -> Array:
    """Return the weights that each input channel is multiplied by, (I, ...)."""
    if layer.node.op_type == "Conv":
        outputs, inputs, *kernel = layer.weight.shape
        grouped = layer.weight.reshape(layer.groups, outputs // layer.groups, inputs, *kernel)
        return grouped.swapaxes(1, 2).reshape(layer.groups * inputs, -1)
    return layer.weight.T


def _scaled_inputs(layer: Layer, scale: Array) -> Layer:
    weight = layer.weight.copy()
    if layer.node.op_type == "Conv":
        outputs, inputs, *kernel = weight.shape
        grouped = weight.reshape(layer.groups, outputs // layer.groups, inputs, *kernel)
        factors = scale.reshape(layer.groups, 1, inputs, *(1 for _ in kernel))
        weight = (grouped * factors).reshape(weight.shape)
    else:
        weight = weight * scale
    kernels = np.moveaxis(weight, layer.axis, 0).reshape(len(layer.bias), -1)
    return layer.with_values(kernels, layer.bias)


def _balance(first: Array, second: Array) -> Array:
    """Return what to divide every channel by, 1 for those that one side doesn't use."""
    made, read = (np.abs(side).max(axis=1).astype(np.float64) for side in (first, second))
    used = (made > 0) & (read > 0)
    return np.where(used, np.sqrt(np.where(used, made, 1) / np.where(used, read, 1)), 1.0)
