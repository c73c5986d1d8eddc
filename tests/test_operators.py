"""Operators from ONNX to the machine: equal to the model as it was, to the oracle graph and to the reference."""

import numpy as np
import pytest

from hwq import compile, onnx_constraints, reference
from hwq.host import oracle_session
from hwq.onnx_reader import read
from hwq.runtime import InferenceSession
from tests.onnx_models import Builder, assert_exact, kinds, random_feeds, reasons
from tests.programs import tiny

DTYPES = ["int8", "uint8"]
ARCH = tiny(3, 6, 8, 2, act_bytes=1 << 15, param_words=256, slots=128)
X = (0.05, 3)


def zero(value, dtype):
    return value + (128 if dtype == "uint8" else 0)


def model_of(build, shape, dtype="int8", y=X, opset=17):
    """Make a model from one quantized tensor to another."""
    b = Builder()
    x = b.dequantize(b.input("x", shape, dtype), X[0], zero(X[1], dtype), dtype)
    return b.model(b.quantize(build(b, x), y[0], zero(y[1], dtype), dtype, "y"), opset=opset)


def check(model, layers=None, *, original=True, samples=3):
    """Compare the model, its oracle graph, the reference and the machine; return the graph."""
    graph = read(model, "net")
    assert "HostNode" not in [op.kind for op in graph.ops], reasons(graph)
    assert_exact(graph, samples=samples)
    feeds = random_feeds(graph, samples, 7)
    expected = reference.run(graph, feeds)["y"]
    if original:
        session = oracle_session(model)
        (name,) = graph.inputs
        rows = graph.tensors[name].shape[0]
        parts = [session.run(None, {name: feeds[name][i * rows : (i + 1) * rows]})[0] for i in range(samples)]
        assert np.array_equal(expected, np.concatenate(parts))
    program = compile(graph, ARCH)
    made = [layer.op for step in program.array_steps for layer in step.layers]
    assert layers is None or made == layers
    assert np.array_equal(InferenceSession(program).run(None, feeds)[0], expected)
    return graph


# Averages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [13, 18])
def test_mean_over_the_image_is_a_global_average(dtype, keepdims, opset):
    def build(b, x):
        if opset < 18:
            return b.node("ReduceMean", [x], axes=[-1, 2], keepdims=keepdims)
        return b.node("ReduceMean", [x, b.constant([2, 3], np.int64)], keepdims=keepdims)

    graph = check(model_of(build, (1, 6, 5, 4), dtype, (0.013, -9), opset), ["AveragePool"], original=False)
    assert kinds(graph) == ["AveragePool"] + ["Reshape"] * (not keepdims)
    assert len(graph.rewrites) == 1


def test_mean_of_a_row():
    check(model_of(lambda b, x: b.node("ReduceMean", [x], axes=[2], keepdims=0), (2, 6, 20)), original=False)


def test_mean_over_other_axes_stays_on_the_host():
    for axes in ([1], [1, 2, 3], [2]):
        graph = read(model_of(lambda b, x, axes=axes: b.node("ReduceMean", [x], axes=axes), (1, 6, 5, 4)), "net")
        assert reasons(graph)["ReduceMean"] == onnx_constraints.sentence(onnx_constraints.constraint_image_mean)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 2, 0)])
def test_average_that_counts_its_padding(dtype, pads):
    def build(b, x):
        attributes = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": pads, "count_include_pad": 1}
        return b.node("AveragePool", [x], **attributes)

    graph = check(model_of(build, (2, 6, 7, 6), dtype, (0.047, -9)), original=False)
    assert kinds(graph) == ["AveragePool"]
