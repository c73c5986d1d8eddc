from dataclasses import replace

import numpy as np
import onnx
import pytest

from hwq.host import oracle_session, run_model
from hwq.ir import Conv, Graph, Op, Tensor
from hwq.onnx_reader import read
from hwq.onnx_writer import IR_VERSION, boundary, write, write_subgraph
from tests.onnx_models import Builder, assert_exact, kinds


def chain():
    """Quantize, Conv, host Softmax, Conv and dequantize, with a clamp and a window average."""
    rng = np.random.default_rng(3)
    b = Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 4, 6, 6)), 0.05, 3, output="xq"), 0.05, 3)
    weight = rng.integers(-128, 128, (4, 4, 3, 3)).astype(np.int8)
    conv = b.node("Clip", [b.node("Conv", [x, b.weight(weight, 0.01)]), b.constant(-1, np.float32)], "clipped")
    first = b.dequantize(b.quantize(conv, 0.25, 4, output="c"), 0.25, 4)
    pool = b.node("AveragePool", [first], kernel_shape=[2, 2])
    second = b.dequantize(b.quantize(pool, 0.25, 4, output="p"), 0.25, 4)
    soft = b.node("Softmax", [second], "soft")
    last = b.quantize(soft, 1 / 256, -128, output="s")
    return read(b.model(b.dequantize(last, 1 / 256, -128, output="y"), "p"), "net")


def test_oracle_has_one_node_for_each_operator():
    model = write(chain())
    onnx.checker.check_model(model)
    assert model.ir_version <= IR_VERSION
    assert [node.op_type for node in model.graph.node] == [
        "QuantizeLinear", "QLinearConv", "Clip", "QLinearConv", "DequantizeLinear", "Softmax", "QuantizeLinear",
        "DequantizeLinear",
    ]  # fmt: skip
    assert [value.name for value in model.graph.input] == ["x"]
    assert [value.name for value in model.graph.output] == ["y", "p"]


def test_window_average_has_the_multiplier_of_its_rule():
    model = write(chain())
    node = model.graph.node[3]
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    scales = [constants[node.input[position]] for position in (1, 4, 6)]
    # fl(x_scale / fl(y_scale * 4)), and ONNX Runtime's fl(fl(x_scale * 1) / 1) leaves it as it is.
    assert scales == [np.float32(0.25) / np.float32(1.0), 1, 1]


def test_oracle_equals_the_reference():
    assert_exact(chain(), samples=5)


def test_a_node_whose_floats_and_integers_are_both_read_is_two_nodes_of_two_names():
    b = Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 2, 4, 4)), 0.5, 0), 0.5, 0)
    pooled = b.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    y = b.node("Conv", [pooled, b.weight(np.ones((3, 2, 1, 1), np.int8), 0.5)])
    graph = read(b.model(pooled, b.dequantize(b.quantize(y, 0.5, 0), 0.5, 0)), "net")
    names = [node.name for node in write(graph).graph.node]
    assert len(names) == len(set(names))
    assert [name for name in names if "maxpool" in name] == ["n_maxpool_2", "n_maxpool_2_2"]
    assert_exact(graph)


def test_writing_is_deterministic():
    graph = chain()
    assert write(graph).SerializeToString(deterministic=True) == write(graph).SerializeToString(deterministic=True)


def test_constants_keep_their_shape_and_names_stay_unique():
    graph = chain()
    graph.tensors["xq/scale"] = Tensor("xq/scale", (1,), "float32")
    model = write(graph)
    names = [entry.name for entry in model.graph.initializer]
    assert len(names) == len(set(names))
    assert "xq/scale" not in names
    assert all(not entry.dims for entry in model.graph.initializer if entry.name.endswith("zero_point"))


def test_subgraph_has_the_edges_of_its_operators():
    graph = chain()
    ops = [op for op in graph.ops if op.kind == "HostNode"][1:]
    model = write_subgraph(graph, ops)
    assert boundary(graph, ops) == (["p"], ["y"])
    assert [value.name for value in model.graph.input] == ["p"]
    assert [value.name for value in model.graph.output] == ["y"]
    result = run_model(model, {"p": np.zeros((1, 4, 3, 3), np.int8)})["y"]
    assert np.allclose(result, 1 / 3, atol=1 / 256)


def test_subgraph_can_be_asked_for_inner_tensors():
    graph = chain()
    ops = [op for op in graph.ops if op.kind == "HostNode"][1:]
    assert [value.name for value in write_subgraph(graph, ops, outputs=["s"]).graph.output] == ["s"]


def test_parts_run_one_after_the_other_equal_the_whole():
    graph = chain()
    x = np.random.default_rng(5).uniform(-8, 8, (1, 4, 6, 6)).astype(np.float32)
    whole = oracle_session(write(graph)).run(None, {"x": x})
    values = {"x": x}
    for op in graph.ops:
        inputs, outputs = boundary(graph, [op])
        values |= run_model(write_subgraph(graph, [op]), {name: values[name] for name in inputs}, outputs)
    assert np.array_equal(values["y"], whole[0])
    assert np.array_equal(values["p"], whole[1])


def one_conv(weight, zero_point, x_dtype="int8", groups=1):
    outputs = len(weight)
    tensors = {
        "x": Tensor("x", (1, groups * weight.shape[1], 4, 4), x_dtype, 0.05, 3),
        "y": Tensor("y", (1, outputs, *(5 - kernel for kernel in weight.shape[2:])), x_dtype, 0.3, 5),
    }
    low, high = tensors["y"].range
    conv = Conv(
        name="conv",
        inputs=("x",),
        outputs=("y",),
        weight=weight,
        weight_zero_point=np.asarray(zero_point, np.int64),
        weight_scale=np.full(outputs, 0.01, np.float32),
        bias=np.zeros(outputs, np.int32),
        groups=groups,
        lo=low,
        hi=high,
    )
    return Graph("net", ["x"], ["y"], tensors, {}, [conv])


def stored_weight(graph):
    node = write(graph).graph.node[0]
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in write(graph).graph.initializer}
    return constants[node.input[3]], constants[node.input[5]]


def test_uint8_weights_of_int8_activations_are_relabelled():
    weight = np.array([0, 127, 128, 255], np.uint8).reshape(1, 4, 1, 1)
    graph = one_conv(weight, [130])
    stored, zero_point = stored_weight(graph)
    assert stored.reshape(-1).tolist() == [-128, -1, 0, 127]
    assert zero_point == 2
    assert_exact(graph)


def test_uint8_weights_of_uint8_activations_stay():
    weight = np.array([0, 127, 128, 255], np.uint8).reshape(1, 4, 1, 1)
    stored, zero_point = stored_weight(one_conv(weight, [130], "uint8"))
    assert np.array_equal(stored, weight)
    assert zero_point == 130


def test_different_zero_points_become_one_where_they_fit():
    weight = np.array([[-100, 100], [20, 127]], np.int8).reshape(2, 2, 1, 1)
    graph = one_conv(weight, [-10, 30])  # centred: -90..110 and -10..97
    stored, zero_point = stored_weight(graph)
    centred = stored.astype(int) - int(zero_point)
    assert centred.reshape(2, 2).tolist() == [[-90, 110], [-10, 97]]
    assert_exact(graph)


@pytest.mark.parametrize("x_dtype", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("shape", "groups"), [((4, 4, 1, 1), 1), ((4, 1, 3, 3), 4), ((4, 2, 3, 3), 2), ((4, 4, 3, 3), 1)]
)
@pytest.mark.parametrize("zero_points", [[-128, 127, 0, 5], [5, -5, 0, 0]])
def test_different_zero_points_that_do_not_fit_stay(shape, groups, x_dtype, zero_points):
    weight = np.random.default_rng(1).integers(-128, 128, shape).astype(np.int8)
    weight[:, 0, 0, 0] = [-128, 127, -128, 127]
    graph = one_conv(weight, zero_points, x_dtype, groups)
    assert stored_weight(graph)[1].tolist() == zero_points
    assert_exact(graph)


def test_operator_without_onnx_form():
    graph = one_conv(np.zeros((1, 1, 1, 1), np.int8), [0])
    with pytest.raises(TypeError, match="Op has no ONNX form"):
        write(replace(graph, ops=[Op(name="o", inputs=("x",), outputs=("y",))]))


def test_weird_domains_survive():
    graph = chain()
    graph.opset["ai.onnx.ml"] = 3
    assert {entry.domain: entry.version for entry in write(graph).opset_import}["ai.onnx.ml"] == 3
    assert kinds(graph)[0] == "QuantizeLinear"
