"""Networks with rows and columns exchanged compute what ONNX Runtime computes of the upright ones."""

import numpy as np
import pytest

from hwq import reference
from hwq.host import oracle_session
from hwq.onnx_reader import read
from hwq.onnx_writer import write
from hwq.passes.transpose_space import is_square, transpose_space
from tests.onnx_models import Builder, kinds, random_feeds

RNG = np.random.default_rng(20)


def convolution(b, x):
    weight = b.weight(RNG.integers(-128, 128, (6, 4, 3, 2)).astype(np.int8), 0.002)
    return b.node("Conv", [x, weight], strides=[2, 1], dilations=[1, 2], pads=[2, 1, 0, 3])


def maximum(b, x):
    return b.node("MaxPool", [x], kernel_shape=[3, 2], strides=[2, 1], dilations=[1, 2], pads=[1, 0, 2, 1])


def average(b, x):
    attributes = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1], "count_include_pad": 1}
    return b.node("AveragePool", [x], **attributes)


def padding(b, x):
    return b.node("Pad", [x, b.constant([0, 1, 2, 3, 1, 0, 4, 0]), b.constant(0.0, np.float32)])


def rows(b, x):
    return b.node("Concat", [x, b.weight(RNG.integers(-128, 128, (2, 4, 3, 7)).astype(np.int8), 0.05, 3)], axis=2)


def addition(b, x):
    return b.node("Add", [x, b.weight(RNG.integers(-128, 128, (1, 1, 9, 7)).astype(np.int8), 0.05)])


def table(b, x):
    return b.node("Tanh", [x])


def network(*layers, size=(9, 7)):
    b = Builder()
    x = b.dequantize(b.input("x", (2, 4, *size), "int8"), 0.05, 3)
    for layer in layers:
        y = b.quantize(layer(b, x), 0.05, 3)
        x = b.dequantize(y, 0.05, 3)
    return read(b.model(y, types={y: ("int8", None)}), "net")


def check(graph):
    """Return the kinds of operators of the exchanged graph, whose results are compared with the upright one's."""
    new = transpose_space(graph)
    feeds = random_feeds(graph, 1, 7)
    (expected,) = oracle_session(write(graph)).run(graph.outputs, feeds)
    np.testing.assert_array_equal(reference.run(new, feeds)[graph.outputs[0]], expected)
    assert {new.tensors[name].shape[2:] for name in new.swapped} == {t.shape[:1:-1] for t in new.swapped.values()}
    return kinds(new)


@pytest.mark.parametrize("layer", [convolution, maximum, average, padding, rows, addition, table])
def test_layers_of_an_exchanged_image(layer):
    (kind,) = kinds(network(layer))
    assert check(network(layer)) == ["Transpose", kind, "Transpose"]


def test_images_are_exchanged_once_for_several_layers():
    assert check(network(convolution, maximum, table)) == ["Transpose", "Conv", "MaxPool", "Table", "Transpose"]


def test_other_operators_keep_upright_images():
    graph = network(maximum, lambda b, x: b.node("Softmax", [x], axis=3), table)
    ends, host = ["Transpose", "MaxPool", "Transpose"], kinds(graph)[1:-1]
    assert check(graph) == [*ends, *host, "Transpose", "Table", "Transpose"]


def test_images_are_exchanged_back_once_for_several_readers():
    def twice(b, x):
        return b.node("Add", [b.node("Flatten", [x]) for _ in range(2)])

    assert check(network(maximum, twice)) == ["Transpose", "MaxPool", "Transpose", "Reshape", "Reshape", "Add"]


def test_names_that_are_taken():
    graph = network(maximum)
    (pool,) = graph.ops
    for name in (pool.inputs[0], pool.outputs[0]):
        graph.tensors[f"{name}^T"] = graph.tensors[name]
    assert check(graph) == ["Transpose", "MaxPool", "Transpose"]


def test_what_is_square():
    def pool(*kernel):
        return lambda b, x: b.node("MaxPool", [x], kernel_shape=kernel)

    assert is_square(network(pool(2, 2), size=(6, 6)))
    assert not is_square(network(pool(2, 3), size=(6, 6)))
    assert not is_square(network(pool(2, 2), size=(6, 5)))
