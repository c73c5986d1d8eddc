"""Batch normalizations that follow a convolution: folded away in the prepared model, trained as they were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from hwq.ir import Array
from hwq.onnx_load import open_source
from hwq.onnx_values import attribute


@dataclass(frozen=True, eq=False)
class Normalized:
    """A convolution and the batch normalization of its result, not yet one layer.

    Members
    -------
    weight : float32 array
        The convolution's.
    bias : float32 (O,)
    gamma, beta, mean, variance : float32 (O,)
    epsilon : float
    """

    weight: Array
    bias: Array
    gamma: Array
    beta: Array
    mean: Array
    variance: Array
    epsilon: float


def find_norms(model: onnx.ModelProto, name: str) -> dict[str, Normalized]:
    """Return the normalized convolutions of a float model by the tensor that the batch normalization makes.

    That is `Layer.output` of the layer which `hwq.quantize.prepare.prepare` makes of them.
    """
    source = open_source(model, name)
    reads = [tensor for node in source.nodes for tensor in node.input]
    found = {}
    for node in source.nodes:
        before = source.producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if before is None or before.op_type != "Conv" or reads.count(node.input[0]) > 1:
            continue
        names = [*before.input[1:], *node.input[1:]]
        if not all(tensor in source.constants for tensor in names):
            continue
        weight, *bias = (source.constants[tensor] for tensor in before.input[1:])
        gamma, beta, mean, variance = (source.constants[tensor] for tensor in node.input[1:])
        own = bias[0] if bias else np.zeros(len(weight), np.float32)
        epsilon = attribute(node, "epsilon", 1e-5)
        found[node.output[0]] = Normalized(weight, own, gamma, beta, mean, variance, epsilon)
    return found
