"""Float models with new weights: training from scratch starts where any other does."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from hwq.onnx_values import attribute
from hwq.quantize.network import LAYERS


def reinitialize(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Return `model` with random weights (He et al., 2015), biases of 0 and batch normalizations that do nothing.

    Weights are constants of the graph itself; the others stay as they are.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    rng = np.random.default_rng(seed)
    tensors = {tensor.name: tensor for tensor in made.graph.initializer}

    def put(name: str, values: np.ndarray) -> None:
        tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

    for node in made.graph.node:
        if node.op_type == "BatchNormalization":
            for name, value in zip(node.input[1:], (1.0, 0.0, 0.0, 1.0), strict=True):
                if name in tensors:
                    put(name, np.full(list(tensors[name].dims), value))
        elif node.op_type in LAYERS and node.input[1] in tensors:
            shape = list(tensors[node.input[1]].dims)
            put(node.input[1], rng.normal(0, np.sqrt(2 / _fan_in(node, shape)), shape))
            if len(node.input) > 2 and node.input[2] in tensors:
                put(node.input[2], np.zeros(list(tensors[node.input[2]].dims)))
    return made


def _fan_in(node: onnx.NodeProto, shape: list[int]) -> int:
    if node.op_type in ("Gemm", "MatMul"):
        return shape[1] if attribute(node, "transB", 0) else shape[0]
    return int(np.prod(shape[1 if node.op_type == "Conv" else 0 :])) // (1 if node.op_type == "Conv" else shape[1])
