import numpy as np
import pytest

from hwq import reference
from hwq.ir import Reshape, Table, Transpose
from hwq.onnx_reader import read
from hwq.passes.fuse_tables import fuse_tables
from tests.onnx_models import Builder, assert_exact, kinds, random_feeds

PARAMS = (0.05, 3)


def graph_of(build, *outputs):
    """Return the graph of a 1x1 convolution followed by what `build` adds to its dequantized result."""
    b = Builder()
    x = b.dequantize(b.input("x", (1, 4, 3, 2), "int8"), *PARAMS)
    weight = np.random.default_rng(2).integers(-128, 128, (6, 4, 1, 1)).astype(np.int8)
    conv = again(b, b.node("Conv", [x, b.weight(weight, 0.004)]))
    y = b.quantize(build(b, conv), *PARAMS, output="y")
    return read(b.model(y, *outputs, types={name: ("int8", None) for name in outputs}), "net")


def again(b, x, scale=0.03):
    q = b.quantize(x, scale, -5, output=f"q{len(b.nodes)}")
    return b.dequantize(q, scale, -5)


def function(b, x, op_type="Tanh", scale=0.03):
    return again(b, b.node(op_type, [x]), scale)


def check(build, expected, *outputs):
    graph = graph_of(build, *outputs)
    before = [f"{op.kind}" for op in graph.ops]
    fused = fuse_tables(graph)
    assert kinds(fused) == expected
    assert [op.kind for op in graph.ops] == before
    feeds = random_feeds(graph, 3, 4)
    for name, value in reference.run(graph, feeds).items():
        assert np.array_equal(reference.run(fused, feeds)[name], value)
    assert_exact(fused)
    return fused


def test_table_of_a_table_is_one():
    def build(b, x):
        return function(b, function(b, function(b, x), "Neg", 0.05), "Sigmoid", 0.004)

    fused = check(build, ["Conv", "Table"])
    assert len(fused.ops[1].nodes) == 3 + 3 + 3 + 2  # the last one only quantizes again
    assert fused.ops[1].name.count("+") == 3


def test_table_of_a_table_that_others_read_stays():
    def build(b, x):
        b.inner = function(b, x)
        return b.node("Add", [function(b, b.inner, "Neg", 0.05), b.inner])

    _, inner, outer, _ = check(build, ["Conv", "Table", "Table", "Add"]).ops
    assert outer.inputs == inner.outputs


def test_table_of_an_output_stays():
    check(lambda b, x: function(b, function(b, x), "Neg"), ["Conv", "Table", "Table"], "q6")


@pytest.mark.parametrize("after", [False, True])
def test_table_moves_before_views_to_the_layer_that_feeds_it(after):
    def build(b, x):
        moved = b.node("Reshape", [b.node("Transpose", [x], perm=[0, 2, 3, 1]), b.constant([6, 6], np.int64)])
        return function(b, moved) if not after else function(b, function(b, moved), "Neg")

    fused = check(build, ["Conv", "Table", "Transpose", "Reshape"])
    table = next(op for op in fused.ops if isinstance(op, Table))
    assert fused.tensors[table.outputs[0]].shape == (1, 6, 3, 2)
    assert [type(op) for op in fused.ops[2:]] == [Transpose, Reshape]


def test_table_stays_behind_views_of_an_input():
    b = Builder()
    x = b.dequantize(b.input("x", (1, 4, 3, 2), "int8"), *PARAMS)
    y = b.quantize(b.node("Tanh", [b.node("Flatten", [x])]), *PARAMS, output="y")
    assert kinds(fuse_tables(read(b.model(y), "net"))) == ["Reshape", "Table"]
