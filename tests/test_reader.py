import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwq import demo, onnx_constraints
from hwq.errors import ModelError
from hwq.ir import Add, AveragePool, Concat, Conv, Gemm, MaxPool, Pad
from hwq.onnx_load import load_model
from hwq.onnx_reader import EDGE, read
from hwq.onnx_writer import write
from tests.onnx_models import Builder, kinds, reasons

RNG = np.random.default_rng(7)


def weights(*shape, dtype="int8"):
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


def qdq(build, input_type="float32", shape=(1, 4, 6, 6), x=(0.5, 3), y=(0.25, -5), dtype="int8", opset=17):
    """Make a model that quantizes its input, calls build(builder, dequantized input) and quantizes the result."""
    b = Builder()
    q = b.input("x", shape, input_type)
    if input_type == "float32":
        q = b.quantize(q, *x, dtype, "xq")
    result = build(b, b.dequantize(q, *x, dtype))
    return b.model(b.quantize(result, *y, dtype, "y"), opset=opset)


def only(graph, kind):
    found = [op for op in graph.ops if isinstance(op, kind)]
    assert len(found) == 1, kinds(graph)
    return found[0]


# Parameters, bounds and views ----------------------------------------------------------------------------------------


def test_conv_with_every_attribute():
    w = weights(8, 2, 3, 2)

    def build(b, x):
        w_name = b.weight(w, np.full(8, 0.25), np.arange(8) - 3)
        bias = b.weight(np.arange(8, dtype=np.int32), np.full(8, 0.125, np.float32))
        attributes = {"strides": [1, 2], "dilations": [2, 1], "pads": [1, 2, 0, 1], "group": 2}
        return b.node("Conv", [x, w_name, bias], **attributes)

    graph = read(qdq(build), "m")
    conv = only(graph, Conv)
    assert kinds(graph) == ["QuantizeLinear", "Conv"]
    assert np.array_equal(conv.weight, w)
    assert np.array_equal(conv.weight_zero_point, np.arange(8) - 3)
    assert np.array_equal(conv.bias, np.arange(8))
    assert (conv.strides, conv.dilations, conv.pads, conv.groups) == ((1, 2), (2, 1), (1, 2, 0, 1), 2)
    assert (conv.lo, conv.hi) == (-128, 127)
    assert graph.tensors["y"].scale == 0.25
    assert graph.tensors["y"].zero_point == -5
    assert graph.rewrites == []


@pytest.mark.parametrize(
    ("auto_pad", "pads"), [("SAME_UPPER", (0, 1, 1, 2)), ("SAME_LOWER", (1, 2, 0, 1)), ("VALID", (0, 0, 0, 0))]
)
def test_auto_pad_is_resolved(auto_pad, pads):
    def build(b, x):
        return b.node("Conv", [x, b.weight(weights(2, 4, 2, 4), 0.1)], auto_pad=auto_pad)

    assert only(read(qdq(build), "m"), Conv).pads == pads


def test_missing_zero_points_are_zero():
    b = Builder()
    q = b.node("QuantizeLinear", [b.input("x", (1, 3)), b.constant(0.5, np.float32)], "q")
    graph = read(b.model(q), "m")
    assert graph.tensors["q"].dtype == "uint8"
    assert graph.tensors["q"].zero_point == 0


def test_relu_becomes_a_lower_bound():
    def build(b, x):
        return b.node("Relu", [b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.1)])])

    conv = only(read(qdq(build, y=(0.5, -7)), "m"), Conv)
    assert (conv.lo, conv.hi) == (-7, 127)


def test_clip_bounds_round_as_quantize_linear_does():
    def build(b, x):
        conv = b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.1)])
        return b.node("Clip", [conv, b.constant(-1.25, np.float32), b.constant(3.75, np.float32)])

    conv = only(read(qdq(build, y=(0.5, 1)), "m"), Conv)
    # -1.25 / 0.5 = -2.5 and 3.75 / 0.5 = 7.5 are ties, which go to the even -2 and 8.
    assert (conv.lo, conv.hi) == (-1, 9)


def test_activations_in_a_row_intersect():
    def build(b, x):
        conv = b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.1)])
        return b.node("Relu", [b.node("Clip", [conv, b.constant(-2, np.float32), b.constant(6, np.float32)])])

    conv = only(read(qdq(build, y=(0.5, 0)), "m"), Conv)
    assert (conv.lo, conv.hi) == (0, 12)


def test_bias_of_another_scale_is_rounded_and_said_so():
    def build(b, x):
        bias = b.weight(np.array([3, -5], np.int32), np.float32(0.06))
        return b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.25), bias])

    graph = read(qdq(build), "m")
    assert only(graph, Conv).bias.tolist() == [1, -2]  # 0.18 / 0.125 = 1.44, -0.3 / 0.125 = -2.4
    assert graph.rewrites == ["n_conv_4: bias rounded to a multiple of input scale times weight scale"]


def test_float_bias_is_rounded():
    def build(b, x):
        return b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.25), b.constant([0.3125, -1], np.float32)])

    graph = read(qdq(build), "m")
    assert only(graph, Conv).bias.tolist() == [2, -8]  # 2.5 goes to even
    assert len(graph.rewrites) == 1


def test_one_dimensional_conv_becomes_an_image():
    def build(b, x):
        return b.node("Conv", [x, b.weight(weights(2, 4, 3), 0.1)], strides=[2], pads=[1, 2])

    graph = read(qdq(build, shape=(1, 4, 9)), "m")
    conv = only(graph, Conv)
    assert kinds(graph) == ["QuantizeLinear", "Reshape", "Conv", "Reshape"]
    assert (conv.weight.shape, conv.strides, conv.pads) == ((2, 4, 1, 3), (1, 2), (0, 1, 0, 2))


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_reads_both_orders_of_its_weight(transposed):
    w = weights(4, 5)

    def build(b, x):
        weight = b.weight(w.T.copy() if transposed else w, np.arange(1, 6), axis=1 - transposed)
        return b.node("Gemm", [x, weight, b.constant([0.5] * 5, np.float32)], alpha=0.5, transB=transposed)

    gemm = only(read(qdq(build, shape=(2, 4)), "m"), Gemm)
    assert np.array_equal(gemm.weight, w)
    assert gemm.weight_scale.tolist() == [1, 2, 3, 4, 5]
    assert gemm.alpha == 0.5
    assert gemm.bias.tolist() == [2, 1, 1, 0, 0]  # 0.5 over 0.25, 0.5, 0.75, 1 and 1.25: ties go to even


def test_matmul_and_the_add_of_a_constant_are_one_gemm():
    def build(b, x):
        product = b.node("MatMul", [x, b.weight(weights(4, 5), 0.25)])
        return b.node("Relu", [b.node("Add", [b.weight(np.arange(5, dtype=np.int32), np.float32(0.125)), product])])

    graph = read(qdq(build, shape=(2, 3, 4)), "m")
    gemm = only(graph, Gemm)
    assert kinds(graph) == ["QuantizeLinear", "Gemm"]
    assert gemm.bias.tolist() == [0, 1, 2, 3, 4]
    assert gemm.lo == -5


def test_transposed_weight_constant_is_followed():
    w = weights(5, 4)

    def build(b, x):
        return b.node("MatMul", [x, b.node("Transpose", [b.weight(w, np.ones(5))], perm=[1, 0])])

    assert np.array_equal(only(read(qdq(build, shape=(2, 4)), "m"), Gemm).weight, w.T)


def test_add_of_a_quantized_constant():
    def build(b, x):
        return b.node("Add", [x, b.weight(weights(4), np.float32(0.1), 2)])

    graph = read(qdq(build, shape=(2, 4)), "m")
    add = only(graph, Add)
    constant = graph.tensors[add.inputs[1]]
    assert add.inputs[1] in graph.constants
    assert (constant.scale, constant.zero_point, constant.dtype) == (np.float32(0.1), 2, "int8")


def test_four_bit_weights_are_widened():
    def build(b, x):
        b.constants["w4"] = weights(2, 4, 1, 1) % 8
        scale = b.constant([0.5, 0.25], np.float32)
        return b.node("Conv", [x, b.node("DequantizeLinear", ["w4", scale], axis=0)])

    model = qdq(build, opset=21)
    (tensor,) = [entry for entry in model.graph.initializer if entry.name == "w4"]
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(helper.make_tensor("w4", TensorProto.INT4, values.shape, values.reshape(-1)))
    conv = only(read(model, "m"), Conv)
    assert conv.weight.dtype == np.int8
    assert np.array_equal(conv.weight, values)


def test_weight_quantized_in_the_model_is_folded():
    def build(b, x):
        w = b.constant([[[[0.5]]], [[[-9.0]]]], np.float32)
        scale, zero = b.constant([0.5, 0.125], np.float32), b.constant([0, 0], np.int8)
        q = b.node("QuantizeLinear", [w, scale, zero], axis=0)
        return b.node("Conv", [x, b.node("DequantizeLinear", [q, scale, zero], axis=0)])

    graph = read(qdq(build, shape=(1, 1, 2, 2)), "m")
    assert only(graph, Conv).weight.reshape(-1).tolist() == [1, -72]


def test_max_pool_between_equal_parameters_and_alone():
    def build(b, x):
        return b.node("MaxPool", [x], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1], ceil_mode=1)

    graph = read(qdq(build, shape=(1, 4, 6, 6), x=(0.5, 3), y=(0.5, 3)), "m")
    pool = only(graph, MaxPool)
    assert kinds(graph) == ["QuantizeLinear", "MaxPool"]
    assert (pool.kernel, pool.strides) == ((3, 2), (2, 1))
    assert pool.pads == (1, 0, 2, 1)  # ceil_mode lets the fourth window stick out by one row


def test_pooling_over_the_map():
    def build(b, x):
        return b.node("GlobalAveragePool", [x])

    graph = read(qdq(build), "m")
    assert only(graph, AveragePool).kernel == (6, 6)
    assert graph.rewrites == []


def test_average_over_a_window_is_named():
    def build(b, x):
        return b.node("AveragePool", [x], kernel_shape=[2, 3], strides=[2, 1])

    graph = read(qdq(build), "m")
    pool = only(graph, AveragePool)
    assert (pool.kernel, pool.strides) == ((2, 3), (2, 1))
    assert graph.rewrites == ["n_averagepool_2: average of 6 values taken as one integer sum, requantized once"]


def test_concat_and_pad_and_views_between_equal_parameters():
    def build(b, x):
        joined = b.node("Concat", [x, x], axis=-3)
        padded = b.node("Pad", [joined, b.constant([1, 2, 3, 4]), b.constant(1.5, np.float32), b.constant([2, 3])])
        return b.node("Transpose", [padded], perm=[0, 2, 3, 1])

    graph = read(qdq(build, y=(0.5, 3), opset=18), "m")
    assert kinds(graph) == ["QuantizeLinear", "Concat", "Pad", "Transpose"]
    assert only(graph, Concat).axis == 1
    pad = only(graph, Pad)
    assert (pad.begin, pad.end, pad.value) == ((0, 0, 1, 2), (0, 0, 3, 4), 6)  # 1.5 / 0.5 + 3


def test_pad_value_is_rounded_where_quantize_linear_follows():
    def build(b, x):
        return b.node("Pad", [x, b.constant([0, 0, 1, 1, 0, 0, 1, 1]), b.constant(0.75, np.float32)])

    assert only(read(qdq(build, y=(0.5, 3)), "m"), Pad).value == 5  # 1.5 goes to even, plus 3


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "opset"),
    [
        ("Reshape", [[1, 144]], {}, 17),
        ("Flatten", [], {"axis": 2}, 17),
        ("Unsqueeze", [[0]], {}, 17),
        ("Squeeze", [[0]], {}, 17),
        ("Identity", [], {}, 17),
        ("Unsqueeze", [], {"axes": [0]}, 11),
    ],
)
def test_views_are_reshapes(op_type, inputs, attributes, opset):
    def build(b, x):
        return b.node(op_type, [x, *(b.constant(value) for value in inputs)], **attributes)

    assert kinds(read(qdq(build, y=(0.5, 3), opset=opset), "m")) == ["QuantizeLinear", "Reshape"]


def test_quantizing_again_alike_is_the_identity():
    def build(b, x):
        return b.dequantize(b.quantize(x, 0.5, 3), 0.5, 3)

    graph = read(qdq(build, y=(0.5, 3)), "m")
    assert kinds(graph) == ["QuantizeLinear", "Reshape"]  # the user reads both names
    assert graph.ops[0].outputs == ("xq",)


def test_view_of_a_float_input_is_taken_after_quantizing():
    b = Builder()
    image = b.node("Transpose", [b.input("x", (1, 5, 6, 4))], perm=[0, 3, 1, 2])
    q = b.quantize(image, 0.5, 3, output="q")
    graph = read(b.model(q), "m")
    assert kinds(graph) == ["QuantizeLinear", "Transpose"]
    assert graph.tensors[graph.ops[0].outputs[0]].shape == (1, 5, 6, 4)
    assert graph.ops[1].outputs == ("q",)


def test_view_between_an_operator_and_quantize_linear_is_taken_after_it():
    def build(b, x):
        return b.node("Relu", [b.node("Flatten", [b.node("GlobalAveragePool", [x])])])

    graph = read(qdq(build), "m")
    assert kinds(graph) == ["QuantizeLinear", "AveragePool", "Reshape"]
    assert only(graph, AveragePool).lo == -5


def test_parameters_of_an_integer_input_come_from_its_reader():
    b = Builder()
    flat = b.node("Reshape", [b.input("x", (1, 4, 3), "int8"), b.constant([1, 12])])
    y = b.node("MatMul", [b.dequantize(flat, 0.5, 9), b.weight(weights(12, 2), 0.25)])
    graph = read(b.model(b.quantize(y, 0.5, 0, output="y")), "m")
    assert kinds(graph) == ["Reshape", "Gemm"]
    assert (graph.tensors["x"].scale, graph.tensors["x"].zero_point) == (0.5, 9)


def test_value_wanted_as_integer_and_as_float():
    def build(b, x):
        relu = b.node("Relu", [x])
        b.extra = relu
        return b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.1)])

    b = Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 4, 6, 6)), 0.5, 3), 0.5, 3)
    result = b.quantize(build(b, x), 0.25, 0, output="y")
    graph = read(b.model(result, b.extra), "m")
    assert sorted(kinds(graph)) == ["Conv", "DequantizeLinear", "QuantizeLinear", "Relu"]


def test_unneeded_nodes_are_dropped():
    def build(b, x):
        b.node("Softmax", [b.node("Relu", [x])])
        return b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.1)])

    assert kinds(read(qdq(build), "m")) == ["QuantizeLinear", "Conv"]


def test_reading_twice_gives_the_same_graph():
    def build(b, x):
        pool = b.node("MaxPool", [x], kernel_shape=[2, 2])
        return b.node("Conv", [pool, b.weight(weights(2, 4, 1, 1), 0.1)])

    model = qdq(build)
    first, second = read(model, "m"), read(model, "m")
    assert [(op.kind, op.name, op.inputs, op.outputs) for op in first.ops] == [
        (op.kind, op.name, op.inputs, op.outputs) for op in second.ops
    ]
    assert first.tensors == second.tensors


def test_missing_batch_is_one():
    b = Builder()
    x = b.input("x", ("N", 4))
    graph = read(b.model(b.quantize(x, 0.5, 0, output="q")), "m")
    assert graph.tensors["x"].shape == (1, 4)
    assert graph.tensors["q"].shape == (1, 4)


# Constraints ----------------------------------------------------------------------------------------------------------


def _conv(b, x, **attributes):
    return b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.1)], **attributes)


def _unquantized(b, x):
    b.conv = _conv(b, x)
    return b.node("Softmax", [b.conv])


def _float_weight(b, x):
    return b.node("Conv", [x, b.constant(np.ones((2, 4, 1, 1)), np.float32)])


def _weight_scale_along_inputs(b, x):
    return b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), np.ones(4), axis=1)])


def _computed_bias(b, x):
    return b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.1), b.node("Relu", [b.input("b", (2,))])])


def _huge_bias(b, x):
    return b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.1), b.constant([1e9, 0], np.float32)])


def _mixed_types(b, x):
    other = b.dequantize(b.quantize(b.input("u", (1, 4, 6, 6)), 0.5, 3, "uint8"), 0.5, 3, "uint8")
    return b.node("Add", [x, other])


def _volume(b, x):
    shaped = b.node("Reshape", [x, b.constant([1, 4, 6, 3, 2])])
    return b.node("Conv", [shaped, b.weight(weights(2, 4, 1, 1, 1), 0.1)])


def _negative_pads(b, x):
    return b.node("Pad", [x, b.constant([0, 0, -1, 0, 0, 0, 0, 0])])


def _padded_average(b, x):
    return b.node("AveragePool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def _overhanging_average(b, x):
    return b.node("AveragePool", [x], kernel_shape=[4, 4], strides=[3, 3], ceil_mode=1)


def _dilated_average(b, x):
    return b.node("AveragePool", [x], kernel_shape=[2, 2], dilations=[2, 2])


def _scaled_bias(b, x):
    flat = b.node("Flatten", [x])
    return b.node("Gemm", [flat, b.weight(weights(144, 2), 0.1), b.constant([0, 0], np.float32)], beta=2.0)


def _stacked_weight(b, x):
    return b.node("MatMul", [x, b.weight(weights(1, 4, 6, 3), 0.1)])


def _empty_clamp(b, x):
    return b.node("Clip", [b.node("Relu", [_conv(b, x)]), b.constant(-9, np.float32), b.constant(-5, np.float32)])


def _computed_clamp(b, x):
    return b.node("Clip", [_conv(b, x), b.input("low", ())])


def _reflected(b, x):
    return b.node("Pad", [x, b.constant([0, 0, 1, 1, 0, 0, 1, 1])], mode="reflect")


def _computed_pads(b, x):
    return b.node("Pad", [x, b.constant([0, 0, 1, 1, 0, 0, 1, 1]), b.node("Relu", [b.input("v", ())])])


def _unrepresentable_pad(b, x):
    padded = b.node("Pad", [x, b.constant([0, 0, 1, 1, 0, 0, 1, 1]), b.constant(0.3, np.float32)])
    return _conv(b, padded)


def _different_concat(b, x):
    other = b.dequantize(b.quantize(b.input("z", (1, 4, 6, 6)), 0.25, 3), 0.25, 3)
    return b.node("Softmax", [b.node("Concat", [x, other], axis=1)])


def _read_otherwise(b, x):
    return b.node("Softmax", [b.dequantize("xq", 0.25, 3)])


def _quotient_of_two(b, x):
    return b.node("Div", [x, b.dequantize(b.quantize(b.input("z", (1, 4, 6, 6)), 0.25, 3), 0.25, 3)])


def _unquantized_factor(b, x):
    return b.node("Mul", [x, b.input("f", (1, 4, 6, 6))])


def _unquantized_operand(b, x):
    return b.node("Add", [x, b.input("f", (1, 4, 6, 6))])


def _per_channel_activation(b, x):
    names = [b.constant(np.ones(4), np.float32), b.constant(np.zeros(4), np.int8)]
    return _conv(b, b.node("DequantizeLinear", [b.node("QuantizeLinear", [x, *names]), *names]))


@pytest.mark.parametrize(
    ("build", "op_type", "constraint"),
    [
        (_unquantized, "Conv", "quantized_output"),
        (_unquantized, "Softmax", "known_operator"),
        (_read_otherwise, "DequantizeLinear", "no_requantization"),
        (_quotient_of_two, "Div", "one_source"),
        (_unquantized_factor, "Mul", "quantized_input"),
        (_float_weight, "Conv", "constant_weight"),
        (_weight_scale_along_inputs, "Conv", "weight_scale_per_output"),
        (_computed_bias, "Conv", "constant_bias"),
        (_huge_bias, "Conv", "bias_in_range"),
        (_mixed_types, "Add", "one_signedness"),
        (_volume, "Conv", "image"),
        (_negative_pads, "Pad", "plain_pads"),
        (_padded_average, "AveragePool", "one_divisor"),
        (_overhanging_average, "AveragePool", "one_divisor"),
        (_dilated_average, "AveragePool", "undilated_average"),
        (_scaled_bias, "Gemm", "plain_gemm"),
        (_stacked_weight, "MatMul", "matrix_weight"),
        (_empty_clamp, "Conv", "clamp_order"),
        (_computed_clamp, "Clip", "constant_clamp"),
        (_reflected, "Pad", "pad_mode"),
        (_computed_pads, "Pad", "constant_pad"),
        (_unrepresentable_pad, "Pad", "representable_pad"),
        (_different_concat, "Concat", "equal_parameters"),
        (_unquantized_operand, "Add", "quantized_input"),
        (_per_channel_activation, "Conv", "quantized_input"),
    ],
)
def test_node_that_breaks_a_constraint_stays_on_the_host(build, op_type, constraint):
    graph = read(qdq(build, opset=19), "m")
    assert reasons(graph)[op_type] == onnx_constraints.sentence(getattr(onnx_constraints, f"constraint_{constraint}"))


def test_max_pool_with_indices_stays_on_the_host():
    b = Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 1, 4, 4)), 0.5, 0), 0.5, 0)
    b.nodes.append(helper.make_node("MaxPool", [x], ["pooled", "indices"], kernel_shape=[2, 2]))
    graph = read(b.model("pooled", "indices", types={"indices": ("int64", (1, 1, 2, 2))}), "m")
    assert reasons(graph)["MaxPool"] == onnx_constraints.sentence(onnx_constraints.constraint_no_indices)


def _operator_pool(b, **attributes):
    x = b.quantize(b.input("x", (1, 4, 6, 6)), 0.5, 0)
    params = [*b.params(0.5, 0), *b.params(0.25, 0)]
    return b.node("QLinearGlobalAveragePool", [x, *params], "y", "com.microsoft", **attributes)


def test_channels_last_pooling_stays_on_the_host():
    b = Builder()
    graph = read(b.model(_operator_pool(b, channels_last=1)), "m")
    expected = onnx_constraints.sentence(onnx_constraints.constraint_channels_first)
    assert reasons(graph)["QLinearGlobalAveragePool"] == expected


def test_operator_that_reads_under_other_parameters_stays_on_the_host():
    b = Builder()
    x = b.quantize(b.input("x", (1, 4, 6, 6)), 0.125, 0)
    params = [*b.params(0.5, 0), *b.params(0.25, 0)]
    graph = read(b.model(b.node("QLinearGlobalAveragePool", [x, *params], "y", "com.microsoft", channels_last=0)), "m")
    expected = onnx_constraints.sentence(onnx_constraints.constraint_matching_parameters)
    assert reasons(graph)["QLinearGlobalAveragePool"] == expected


def test_operator_with_a_computed_output_scale_stays_on_the_host():
    b = Builder()
    x = b.quantize(b.input("x", (1, 4, 6, 6)), 0.5, 0)
    params = [*b.params(0.5, 0), b.node("Abs", [b.input("s", ())]), b.constant(0, np.int8)]
    graph = read(b.model(b.node("QLinearGlobalAveragePool", [x, *params], "y", "com.microsoft", channels_last=0)), "m")
    expected = onnx_constraints.sentence(onnx_constraints.constraint_usable_parameters)
    assert reasons(graph)["QLinearGlobalAveragePool"] == expected


def test_edges_are_conversions():
    def build(b, x):
        return _conv(b, x)

    assert reasons(read(qdq(build), "m")) == {"QuantizeLinear": EDGE}


def test_every_constraint_is_one_sentence_with_a_remedy():
    constraints = [value for name, value in vars(onnx_constraints).items() if name.startswith("constraint_")]
    assert len(constraints) > 20
    for constraint in constraints:
        assert re.fullmatch(r"[A-Z][^:]+: [^:]+\.", onnx_constraints.sentence(constraint)), constraint.__name__


# Files ----------------------------------------------------------------------------------------------------------------


def simple():
    def build(b, x):
        return b.node("Conv", [x, b.weight(weights(2, 4, 1, 1), 0.1)])

    return qdq(build)


def refused(model, *parts):
    with pytest.raises(ModelError) as caught:
        read(model, "net")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("net", *parts):
        assert part in message, message


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match=r"nothing\.onnx: there is no such file"):
        load_model(tmp_path / "nothing.onnx")


def test_folder_is_not_a_file(tmp_path):
    with pytest.raises(ModelError, match="can't be read: Is a directory"):
        load_model(tmp_path)


@pytest.mark.parametrize("data", [b"", b"hello, world", b"\x00" * 64])
def test_file_that_is_not_onnx(tmp_path, data):
    path = tmp_path / "junk.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"junk\.onnx: isn't an ONNX model"):
        load_model(path)


def test_every_truncation_is_refused(tmp_path):
    data = simple().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(data) - 1, 37):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError, match=r"cut\.onnx"):
            read(path)


def test_external_data_needs_consent(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save_model(simple(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ModelError, match=r"lies in another file: .* external_data=True"):
        read(path)
    assert kinds(read(path, external_data=True)) == ["QuantizeLinear", "Conv"]
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(
        ModelError, match=r"m\.onnx: external data of tensor .* 'weights\.bin' can't be used: No such file"
    ):
        read(path, external_data=True)


def test_external_data_outside_the_folder_is_refused(tmp_path):
    (tmp_path / "secret.bin").write_bytes(b"\x00" * 64)
    folder = tmp_path / "model"
    folder.mkdir()
    model = simple()
    tensor = next(entry for entry in model.graph.initializer if entry.dims == [2, 4, 1, 1])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="must be a path below the model's folder"):
        read(folder / "m.onnx", external_data=True)


@pytest.mark.parametrize("size", [0, -1])
def test_input_of_no_size(size):
    model = simple()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = size
    refused(model, f"input 'x' has size {size} on axis 2", "at least 1")


def test_input_that_fits_no_memory():
    model = simple()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40
    refused(model, "input 'x'", "elements")


def test_constant_without_a_value():
    b = Builder()
    b.node("Constant", [], "c")
    model = b.model(b.node("Add", [b.input("x", (1, 3)), "c"], "y"))
    refused(model, "Constant")


def test_symbolic_size_names_the_remedy():
    model = simple()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    refused(model, "input 'x'", "'width' on axis 3", "make_dynamic_shape_fixed")


def test_input_without_a_shape():
    model = simple()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    refused(model, "input 'x'", "shape")


def test_input_that_is_no_tensor():
    model = simple()
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None))
    refused(model, "input 'x' isn't a tensor")


@pytest.mark.parametrize("dims", [[2, -4, 1, 1], [2, 0, 1, 1]])
def test_initializer_of_no_size(dims):
    model = simple()
    tensor = next(entry for entry in model.graph.initializer if entry.dims == [2, 4, 1, 1])
    tensor.dims[:] = dims
    refused(model, tensor.name, str(dims))


def test_initializer_with_too_little_data():
    model = simple()
    tensor = next(entry for entry in model.graph.initializer if entry.dims == [2, 4, 1, 1])
    tensor.raw_data = tensor.raw_data[:-3]
    refused(model)


def test_tensor_nobody_makes():
    model = simple()
    model.graph.node[-1].input[0] = "ghost"
    refused(model, "ghost")


def test_output_nobody_makes():
    model = simple()
    model.graph.output.append(helper.make_tensor_value_info("ghost", TensorProto.FLOAT, [1]))
    refused(model, "ghost")


def test_cycle():
    model = simple()
    (conv,) = [node for node in model.graph.node if node.op_type == "Conv"]
    (first,) = [node for node in model.graph.node if node.output[0] == "xq"]
    first.input[0] = conv.output[0]
    refused(model, "is part of a cycle")


def test_nodes_in_any_order():
    model = simple()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert kinds(read(model, "net")) == ["QuantizeLinear", "Conv"]


def test_one_tensor_made_twice():
    model = simple()
    model.graph.node.append(model.graph.node[0])
    refused(model, model.graph.node[0].output[0])


def test_shapes_that_do_not_fit():
    model = simple()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    refused(model)


def test_operator_nobody_knows():
    b = Builder()
    model = b.model(b.node("Frobnicate", [b.input("x", (1, 3))], "y", "org.example"))
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    refused(model, "'n_y' (Frobnicate)")


def test_sparse_initializer():
    model = simple()
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    refused(model, "sparse")


def test_operator_set_that_cannot_be_converted():
    b = Builder()
    model = b.model(
        b.node("Upsample", [b.input("x", (1, 1, 2, 2)), b.constant([1, 1, 2, 2], np.float32)], "y"), opset=9
    )
    model.opset_import[0].version = 2
    refused(model)


def test_local_functions_are_inlined():
    b = Builder()
    q = b.quantize(b.input("x", (1, 4)), 0.5, 0)
    called = b.node("Same", [q], "y", "local")
    model = b.model(called, types={"y": ("int8", (1, 4))})
    body = [helper.make_node("Identity", ["a"], ["b"])]
    model.functions.append(helper.make_function("local", "Same", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    assert kinds(read(model, "net")) == ["QuantizeLinear", "Reshape"]


def test_control_flow_keeps_what_its_body_reads():
    b = Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 4)), 0.5, 0), 0.5, 0)
    relu = b.node("Relu", [x])
    branches = {}
    for branch, op_type in (("then_branch", "Neg"), ("else_branch", "Abs")):
        output = helper.make_tensor_value_info(branch, TensorProto.FLOAT, [1, 4])
        branches[branch] = helper.make_graph([helper.make_node(op_type, [relu], [branch])], branch, [], [output])
    b.inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    graph = read(b.model(b.node("If", ["flag"], "y", **branches)), "net")
    assert kinds(graph) == ["QuantizeLinear", "DequantizeLinear", "Relu", "If"]
    assert graph.ops[-1].inputs == ("flag", relu)


def test_huge_constant_is_not_folded():
    b = Builder()
    b.node("ConstantOfShape", [b.constant([1 << 12, 1 << 13])], "huge")
    graph = read(b.model(b.node("ReduceMax", ["huge"], "y", keepdims=1)), "net")
    assert kinds(graph) == ["ConstantOfShape", "ReduceMax"]


def test_tensor_that_fits_no_memory():
    b = Builder()
    b.node("ConstantOfShape", [b.constant([1 << 20, 1 << 20])], "huge")
    model = b.model(b.node("ReduceMax", ["huge"], "y", keepdims=1))
    refused(model, "'n_huge' (ConstantOfShape)", "(1048576, 1048576): more than 268435456 elements")


# Damage ---------------------------------------------------------------------------------------------------------------


def _damaged(rng):
    """Return the demo model with up to three things in it changed at random."""
    model = onnx.load(demo.model_path())
    graph = model.graph
    for _ in range(rng.integers(1, 4)):
        node = graph.node[rng.integers(len(graph.node))]
        tensor = graph.initializer[rng.integers(len(graph.initializer))]
        kind = rng.integers(8)
        if kind == 0 and node.attribute:
            attribute = node.attribute[rng.integers(len(node.attribute))]
            if attribute.ints:
                attribute.ints[rng.integers(len(attribute.ints))] = int(rng.choice([-5, -1, 0, 2, 7, 2**40]))
            elif attribute.type == onnx.AttributeProto.INT:
                attribute.i = int(rng.choice([-3, 0, 2, 99, 2**40]))
        elif kind == 1 and node.attribute:
            del node.attribute[rng.integers(len(node.attribute))]
        elif kind == 2:
            del node.input[rng.integers(len(node.input))]
        elif kind == 3:
            source = graph.node[rng.integers(len(graph.node))]
            node.input[rng.integers(len(node.input))] = str(rng.choice(["", tensor.name, source.output[0]]))
        elif kind == 4 and tensor.dims:
            tensor.dims[rng.integers(len(tensor.dims))] = int(rng.choice([-1, 0, 1, 3, 2**33]))
        elif kind == 5:
            tensor.raw_data = rng.bytes(len(tensor.raw_data))
        elif kind == 6:
            tensor.data_type = int(rng.choice([1, 2, 3, 6, 7, 10, 11, 16, 21, 99]))
        elif kind == 7:
            node.op_type = str(
                rng.choice(["Conv", "Add", "Reshape", "Concat", "Pad", "MaxPool", "MatMul", "Clip", "If"])
            )
    return model


@pytest.mark.parametrize("seed", range(8))
def test_damaged_model_is_read_or_refused_in_one_sentence(seed):
    rng = np.random.default_rng(seed)
    refusals = []
    for _ in range(40):
        model = _damaged(rng)
        try:
            graph = read(model, "damaged")
        except ModelError as error:
            refusals.append(str(error))
        else:
            write(graph)
    assert 0 < len(refusals) < 40
    for message in refusals:
        assert message.startswith("damaged: ")
        assert "\n" not in message


@pytest.mark.parametrize(("outputs", "groups"), [(3, 2), (4, 3)])
def test_conv_whose_groups_do_not_divide_its_channels_is_refused(outputs, groups):
    b = Builder()
    x = b.dequantize(b.input("x", (1, 4, 5, 5), "int8"), 0.5, 0)
    weight = b.weight(np.ones((outputs, 2, 3, 3), np.int8), 0.5)
    model = b.model(b.quantize(b.node("Conv", [x, weight], group=groups), 0.5, 0))
    with pytest.raises(ModelError, match=rf"a weight of shape \({outputs}, 2, 3, 3\) in {groups} groups doesn't take"):
        read(model, "net")
