"""Small float networks for the tests of the quantizer: weights from fixed seeds, labels from the network itself."""

from __future__ import annotations

import numpy as np
import onnx

from hwq.host import oracle_session
from tests.onnx_models import Builder


def convnet(seed: int = 0) -> onnx.ModelProto:
    """A first layer with batch normalization, a depthwise one, a residual add, an average and a matrix product."""
    rng = np.random.default_rng(seed)
    build = Builder()

    def conv(x, inputs, outputs, kernel, group=1):
        weight = rng.normal(0, (inputs // group * kernel * kernel) ** -0.5, (outputs, inputs // group, kernel, kernel))
        bias = build.constant(rng.normal(0, 0.1, outputs), np.float32)
        return build.node(
            "Conv", [x, build.constant(weight, np.float32), bias], group=group, pads=[kernel // 2] * 4, output=None
        )

    x = build.input("x", (1, 3, 8, 8))
    norm = [build.constant(rng.uniform(0.5, 2, 8), np.float32) for _ in range(4)]
    first = build.node("Relu", [build.node("BatchNormalization", [conv(x, 3, 8, 3), *norm])])
    second = build.node("Relu", [conv(first, 8, 8, 3, group=8)])
    third = build.node("Relu", [build.node("Add", [conv(second, 8, 8, 1), first])])
    features = build.node("Flatten", [build.node("GlobalAveragePool", [third])])
    matrix = [build.constant(rng.normal(0, 2, (8, 5)), np.float32), build.constant(rng.normal(0, 1, 5), np.float32)]
    logits = build.node("Gemm", [features, *matrix], alpha=0.5)
    return build.model(build.node("Softmax", [logits], output="y"), types={"y": ("float32", (1, 5))})


def samples(count: int, seed: int = 1) -> np.ndarray:
    """Return inputs of `convnet`: blobs, so that neighbouring pixels have to do with one another."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.normal(0, 1, (count, 3, 4, 4)), np.ones((2, 2))).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray, *names: str) -> list[np.ndarray]:
    """Return outputs, or the tensors `names`, of ONNX Runtime for inputs one by one."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    if names:
        del probed.graph.output[:]
        probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = oracle_session(probed)
    (given,) = [info.name for info in session.get_inputs()]
    runs = [session.run(None, {given: row[np.newaxis]}) for row in x]
    return [np.concatenate(values) for values in zip(*runs, strict=True)]
