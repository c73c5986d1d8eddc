"""Structured pruning: whole channels leave a float network, and with them the cycles they took."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from hwq.errors import HwqError
from hwq.ir import Array
from hwq.onnx_values import attribute
from hwq.quantize.prepare import constants, set_constant

_PASSING = frozenset(
    {"BatchNormalization", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Identity"}
    | {"MaxPool", "AveragePool", "GlobalAveragePool", "Flatten"}
)
"""Operators that keep channels apart, in order."""


@dataclass(frozen=True, eq=False)
class _Chain:
    """A layer, what its result goes through alone, and the layer that reads it."""

    maker: onnx.NodeProto
    between: tuple[onnx.NodeProto, ...]
    reader: onnx.NodeProto


def prune_channels(model: onnx.ModelProto, share: float, *, multiple: int = 1) -> onnx.ModelProto:
    """Return a float model without the `share` of each layer's channels whose weights are smallest.

    A channel's size is the sum of its weights' magnitudes (Li et al., 2017), times the factor of a batch normalization
    after it. Layers are Conv without groups and Gemm, whose result one other such layer reads, through depthwise
    convolutions, pools and functions of single elements; all others stay whole.

    Parameters
    ----------
    model : onnx.ModelProto
        Weights are constants of the graph itself.
    share : float
        0 to 1, 1 excluded.
    multiple : int
        Layers keep a multiple of so many channels, rounded up: the array's ``cols``, for instance.
    """
    if not 0 <= share < 1 or multiple < 1:
        raise HwqError(
            f"channels can't be pruned by {share} to multiples of {multiple}: take a share from 0 to below 1"
        )
    pruned = onnx.ModelProto()
    pruned.CopyFrom(model)
    graph = pruned.graph
    chains, values = _chains(graph), constants(graph)
    for chain, size in [(chain, _sizes(chain, values)) for chain in chains]:
        values = constants(graph)
        keep = min(-(-int(np.ceil(len(size) * (1 - share))) // multiple) * multiple, len(size))
        kept = np.sort(np.argsort(-size, kind="stable")[:keep])
        _cut(graph, chain.maker, _output_axis(chain.maker), kept, values, biases=True)
        for node in chain.between:
            if node.op_type == "Conv":
                _cut(graph, node, 0, kept, values, biases=True)
                next(entry for entry in node.attribute if entry.name == "group").i = keep
            elif node.op_type == "BatchNormalization":
                for name in node.input[1:]:
                    set_constant(graph, name, values[name][kept])
        axis = 1 - _output_axis(chain.reader)
        spread = values[chain.reader.input[1]].shape[axis] // len(size)
        inputs = (kept[:, np.newaxis] * spread + np.arange(spread)).reshape(-1)
        _cut(graph, chain.reader, axis, inputs, values, biases=False)
    del graph.value_info[:]
    return pruned


def _chains(graph: onnx.GraphProto) -> list[_Chain]:
    values = constants(graph)
    reads = [name for node in graph.node for name in node.input] + [output.name for output in graph.output]
    readers = {name: node for node in graph.node for name in node.input}

    def plain(node: onnx.NodeProto) -> bool:
        """Whether a node has weights of its own, to be changed for it alone."""
        return all(name in values and reads.count(name) == 1 for name in node.input[1:] if name)

    def is_layer(node: onnx.NodeProto) -> bool:
        dense = node.op_type == "Gemm" or (node.op_type == "Conv" and attribute(node, "group", 1) == 1)
        return dense and plain(node)

    chains = []
    for maker in graph.node:
        if not is_layer(maker):
            continue
        channels = values[maker.input[1]].shape[_output_axis(maker)]
        node = maker
        between: list[onnx.NodeProto] = []
        while reads.count(node.output[0]) == 1 and node.output[0] in readers:
            node = readers[node.output[0]]
            if is_layer(node):
                chains.append(_Chain(maker, tuple(between), node))
                break
            depthwise = node.op_type == "Conv" and plain(node) and attribute(node, "group", 1) == channels
            if depthwise and len(values[node.input[1]]) != channels:
                break
            if not depthwise and (node.op_type not in _PASSING or attribute(node, "axis", 1) != 1):
                break
            if node.op_type == "BatchNormalization" and not plain(node):
                break
            between.append(node)
    return chains


def _sizes(chain: _Chain, values: dict[str, Array]) -> Array:
    weight = np.moveaxis(values[chain.maker.input[1]], _output_axis(chain.maker), 0)
    size = np.abs(weight.reshape(len(weight), -1).astype(np.float64)).sum(axis=1)
    first = chain.between[0] if chain.between else None
    if first is not None and first.op_type == "BatchNormalization":
        gamma, variance = values[first.input[1]], values[first.input[4]]
        size *= np.abs(gamma) / np.sqrt(variance + attribute(first, "epsilon", 1e-5))
    return size


def _output_axis(node: onnx.NodeProto) -> int:
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def _cut(
    graph: onnx.GraphProto, node: onnx.NodeProto, axis: int, kept: Array, values: dict[str, Array], *, biases: bool
) -> None:
    set_constant(graph, node.input[1], values[node.input[1]].take(kept, axis))
    if biases and len(node.input) > 2 and node.input[2]:
        bias = values[node.input[2]]
        set_constant(graph, node.input[2], bias.take(kept, -1) if bias.size > 1 else bias)
