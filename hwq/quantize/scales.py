"""Scales and zero points of a network's activations, such that the array can run what reads them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from hwq import ir
from hwq.pairs import pair_parameters
from hwq.quantize.calibrate import Histogram, choose
from hwq.quantize.lattice import activation, pool_scale
from hwq.quantize.network import POOLS, Network
from hwq.quantize.recipe import ACTIVATION_BITS, Recipe

Scales = dict[str, tuple[np.float32, int]]

_PAIRS = {"Add": ir.Add, "Sub": ir.Sub, "Mul": ir.Mul}
_WIDER = 1 + 1 / 256
_TRIES = 64


def widths(network: Network, kind: str) -> dict[str, int]:
    """Return the bits of every quantized tensor: `kind` between layers, 8 where the host writes or reads it."""
    graph = network.model.graph
    written, host = set(), {info.name for info in graph.output}
    for node in graph.node:
        results = {network.quantized(name) for name in node.output}
        if node.name in network.layers or results & network.tensors.keys():
            written |= results
        else:
            host |= set(node.input)
    host |= network.tensors.keys() - written
    roots = {network.tensors[name] for name in host if name in network.tensors}
    return {name: 8 if root in roots else ACTIVATION_BITS[kind] for name, root in network.tensors.items()}


def activations(network: Network, histograms: Mapping[str, Histogram], recipe: Recipe) -> Scales:
    """Return the scale and the even zero point of every quantized tensor, unsigned, for `on_array`.

    Tensors that share a scale cover the ranges of all of them.
    """
    bits = widths(network, recipe.activations)
    ranges: dict[str, tuple[float, float]] = {}
    for name, root in network.tensors.items():
        low, high = choose(histograms[name], recipe.method, recipe.percentile, bits[root])
        before = ranges.get(root, (0.0, 0.0))
        ranges[root] = (min(low, before[0]), max(high, before[1]))
    chosen = {root: activation(*bounds, bits[root]) for root, bounds in ranges.items()}
    return on_array(network, {name: chosen[root] for name, root in network.tensors.items()}, bits)


def on_array(network: Network, scales: Scales, bits: Mapping[str, int]) -> Scales:
    """Return `scales`, of every quantized tensor of so many `bits`, moved to where the array computes with them.

    An average's scale puts its multiplier on the lattice, and that of an Add, Sub or Mul is widened, by 1/256 at a
    time, until the array's adder has integers for it.
    """
    chosen = {root: scales[root] for root in network.tensors.values()}
    for node in network.model.graph.node:
        names = [*node.input, network.quantized(node.output[0])]
        roots = [network.tensors[name] for name in names if name in network.tensors]
        if node.op_type in POOLS and len(set(roots)) == 2:
            chosen[roots[1]] = _pooled(network, node, chosen[roots[0]], chosen[roots[1]])
        elif node.op_type in _PAIRS and len(roots) == 3 and roots[2] not in roots[:2]:
            chosen[roots[2]] = _paired(node.op_type, [chosen[root] for root in roots], (1 << bits[roots[2]]) - 1)
    return {name: chosen[root] for name, root in network.tensors.items()}


def _pooled(
    network: Network, node: onnx.NodeProto, x: tuple[np.float32, int], y: tuple[np.float32, int]
) -> tuple[np.float32, int]:
    kernel = next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "kernel_shape"), None)
    count = int(np.prod(kernel if kernel else network.shapes[node.input[0]][2:]))
    return pool_scale(x[0], count, float(y[0])), y[1]


def _paired(kind: str, parameters: list[tuple[np.float32, int]], top: int = 255) -> tuple[np.float32, int]:
    a, b, y = parameters
    scale = y[0]
    for _ in range(_TRIES):
        named = zip(("a", "b", "y"), (a, b, (scale, y[1])), strict=True)
        tensors = {name: ir.Tensor(name, (1,), "uint8", float(step), zero) for name, (step, zero) in named}
        op = _PAIRS[kind](name=kind, inputs=("a", "b"), outputs=("y",), lo=0, hi=top)
        if pair_parameters(op, ir.Graph(name=kind, tensors=tensors, ops=[op], inputs=["a", "b"], outputs=["y"])):
            return scale, y[1]
        scale = np.float32(scale * _WIDER)
    return y
