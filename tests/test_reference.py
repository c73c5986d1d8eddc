import itertools
import tracemalloc

import numpy as np
import pytest

from hwq import demo, reference
from hwq.errors import InputError, ModelError
from hwq.host import oracle_session
from hwq.ir import Graph, Pad, Reshape, Tensor
from hwq.kernels import exact_matmul, exact_pieces
from hwq.onnx_reader import EDGE, read
from tests.onnx_models import Builder, assert_exact, count_mismatches, kinds, random_feeds, reasons

RNG = np.random.default_rng(11)
DTYPES = ["int8", "uint8"]
LOW = {"int8": -128, "uint8": 0}


def weights(*shape, dtype="int8"):
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


def integer_model(build, shape, x=(0.5, 3), y=(0.25, -5), dtype="int8", opset=17):
    """Make a model from quantized input to quantized output; zero points are given as of int8 and moved for uint8."""
    b = Builder()
    offset = 128 if dtype == "uint8" else 0
    x, y = (x[0], x[1] + offset), (y[0], y[1] + offset)
    b.zero_offset = offset
    result = build(b, b.dequantize(b.input("x", shape, dtype), *x, dtype))
    return read(b.model(b.quantize(result, *y, dtype, "y"), opset=opset), "net")


# Each operator, both signednesses, inputs over their full range -------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("zero_points", ["none", "one", "per channel"])
def test_conv(dtype, weight_dtype, groups, zero_points):
    def build(b, x):
        w = weights(12, 6 // groups, 3, 2, dtype=weight_dtype) // 4 + np.iinfo(weight_dtype).max // 2
        zero = {"none": 0, "one": 37, "per channel": np.arange(30, 42)}[zero_points]
        scale = RNG.uniform(0.001, 0.01, 12).astype(np.float32)
        bias = b.weight(RNG.integers(-9999, 9999, 12).astype(np.int32), np.float32(0.037) * scale)
        weight = b.weight(w.astype(weight_dtype), scale, zero)
        attributes = {"strides": [2, 1], "dilations": [1, 2], "pads": [2, 1, 0, 3], "group": groups}
        return b.node("Relu", [b.node("Conv", [x, weight, bias], **attributes)])

    graph = integer_model(build, (1, 6, 9, 8), x=(0.037, -11), y=(0.05, -100), dtype=dtype)
    assert kinds(graph) == ["Conv"]
    assert_exact(graph)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["QDQ", "QLinearConv"])
@pytest.mark.parametrize(("inputs", "groups", "outputs"), [(4, 4, 4), (3, 3, 9), (1, 1, 5), (8, 4, 4), (6, 2, 10)])
@pytest.mark.parametrize("window", [(3, 2), (3,)])
def test_grouped_conv_of_any_channel_multiplier(dtype, form, inputs, groups, outputs, window):
    """Output o reads the inputs of group ``o // (outputs / groups)``; two images a sample, so both axes matter."""
    b = Builder()
    low = LOW[dtype]
    shape = (2, inputs, 7, 6)[: 2 + len(window)]
    w = weights(outputs, inputs // groups, *window)
    scale = RNG.uniform(0.001, 0.01, outputs).astype(np.float32)
    bias = RNG.integers(-9999, 9999, outputs).astype(np.int32)
    x, attributes = b.input("x", shape, dtype), {"group": groups, "pads": [1] * (2 * len(window))}
    if form == "QDQ":
        names = [b.dequantize(x, 0.037, low + 99, dtype), b.weight(w, scale), b.weight(bias, np.float32(0.037) * scale)]
        b.quantize(b.node("Conv", names, **attributes), 0.05, low + 130, dtype, "y")
    else:
        weight = [b.constant(w), b.constant(scale), b.constant(np.zeros(outputs, np.int8))]
        names = [x, *b.params(0.037, low + 99, dtype), *weight, *b.params(0.05, low + 130, dtype), b.constant(bias)]
        b.node("QLinearConv", names, "y", **attributes)
    types = {"y": (dtype, (2, outputs, *(size + 3 - k for size, k in zip(shape[2:], window, strict=True))))}
    graph = read(b.model("y", types=types), "net")
    (conv,) = [op for op in graph.ops if op.kind == "Conv"]
    assert (conv.groups, conv.weight.shape[:2]) == (groups, (outputs, inputs // groups))
    assert not reasons(graph)
    assert_exact(graph)


def test_grouped_conv_by_hand():
    b = Builder()
    w = np.array([1, 10, 2, 20], np.int8).reshape(4, 1, 1, 1)
    x = b.dequantize(b.input("x", (1, 2, 1, 1), "int8"), 1.0, 0)
    conv = b.node("Conv", [x, b.weight(w, 1.0)], group=2)
    graph = read(b.model(b.quantize(conv, 1.0, 0, output="y")), "net")
    feeds = {"x": np.array([3, 5], np.int8).reshape(1, 2, 1, 1)}
    assert reference.run(graph, feeds)["y"].reshape(-1).tolist() == [3, 30, 10, 100]


def test_grouped_conv_whose_sums_outgrow_float32():
    def build(b, x):
        w = np.full((4, 320, 3, 3), 127, np.int8)
        w[1::2] = -128
        return b.node("Conv", [x, b.weight(w, 1e-5)], group=2)

    graph = integer_model(build, (1, 640, 3, 3), x=(1.0, -128), y=(10.0, 0))
    assert_exact(graph, samples=2)


def test_conv_whose_sums_outgrow_float32():
    def build(b, x):
        w = np.full((2, 640, 3, 3), 127, np.int8)
        w[1] = -128
        return b.node("Conv", [x, b.weight(w, 1e-5), b.constant([2.0, -3.0], np.float32)])

    graph = integer_model(build, (1, 640, 3, 3), x=(1.0, -128), y=(10.0, 0))
    assert_exact(graph, samples=2)
    feeds = {"x": np.full((1, 640, 3, 3), 127, np.int8)}
    assert reference.run(graph, feeds)["y"].reshape(-1).tolist() == [127, -128]


@pytest.mark.parametrize(("zero_point", "x"), [(-128, 127), (127, -128)])
def test_every_bit_of_a_sum_counts_at_either_end_of_the_zero_point(zero_point, x):
    """Sums of 28 bits, odd, which float32 can't hold: the bias leaves 5 of them."""
    values = np.full((1, 5760), x, np.int8)
    values[0, 0] -= np.sign(x)
    total = 127 * int((values.astype(int) - zero_point).sum())
    assert total % 2 == 1
    assert abs(total) > 2**24

    def build(b, x):
        weight, bias = np.full((5760, 1), 127, np.int8), np.array([5 - total], np.int32)
        return b.node("Gemm", [x, b.weight(weight, 1.0), b.weight(bias, np.float32(1))])

    graph = integer_model(build, (1, 5760), x=(1.0, zero_point), y=(1.0, 0))
    assert kinds(graph) == ["Gemm"]
    assert reference.run(graph, {"x": values})["y"].tolist() == [[5]]


def test_accumulator_wraps_as_int32():
    b = Builder()
    scale = np.array([1e-7], np.float32)
    x = b.dequantize(b.input("x", (1, 1, 1, 1), "int8"), 1.0, 0)
    bias = b.weight(np.array([2**31 - 1], np.int32), scale)
    conv = b.node("Conv", [x, b.weight(np.full((1, 1, 1, 1), 127, np.int8), scale), bias])
    graph = read(b.model(b.quantize(conv, 2.0, 0, output="y")), "net")
    assert_exact(graph, samples=20)
    # 2**31 - 1 + 127 wraps to -2**31 + 126, whose quotient is -107.37.
    assert reference.run(graph, {"x": np.ones((1, 1, 1, 1), np.int8)})["y"].reshape(-1).tolist() == [-107]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", DTYPES)
@pytest.mark.parametrize(("shape", "alpha"), [((5, 7), 1.0), ((5, 7), 0.3), ((2, 3, 7), 1.0), ((2, 1, 3, 7), 1.0)])
def test_gemm(dtype, weight_dtype, shape, alpha):
    def build(b, x):
        scale = RNG.uniform(0.001, 0.01, 4).astype(np.float32)
        weight = b.weight(weights(7, 4, dtype=weight_dtype), scale, np.arange(4) + 50, axis=1)
        bias = b.constant(RNG.uniform(-0.1, 0.1, 4), np.float32)
        if len(shape) == 2:
            return b.node("Gemm", [x, weight, bias], alpha=alpha)
        return b.node("Add", [b.node("MatMul", [x, weight]), bias])

    graph = integer_model(build, shape, x=(0.037, -11), y=(0.021, 4), dtype=dtype)
    assert kinds(graph) == ["Gemm"]
    assert_exact(graph)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_of_depth_one(dtype):
    def build(b, x):
        return b.node("MatMul", [x, b.weight(np.array([[-128, 127]], np.int8), 0.5)])

    assert_exact(integer_model(build, (1, 1), x=(0.5, 0), y=(0.5, 0), dtype=dtype), samples=64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scales", [(0.037, 0.013, 0.041), (0.5, 0.25, 0.5), (1e-3, 1.0, 1.0)])
def test_add(dtype, scales):
    a_scale, b_scale, y_scale = scales

    def build(b, x):
        second = b.dequantize(b.input("z", (1, 3, 1, 40), dtype), b_scale, 7 + b.zero_offset, dtype)
        return b.node("Clip", [b.node("Add", [x, second]), b.constant(-y_scale * 40, np.float32)])

    graph = integer_model(build, (1, 3, 40, 40), x=(a_scale, -11), y=(y_scale, -3), dtype=dtype)
    assert kinds(graph) == ["Add"]
    assert_exact(graph)


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_of_every_pair(dtype):
    """With these parameters 1219 pairs of uint8 differ from the same pairs relabelled as int8."""

    def build(b, x):
        second = b.dequantize(b.input("z", (1, 256), dtype), 0.034, 74 + b.zero_offset, dtype)
        return b.node("Add", [x, second])

    graph = integer_model(build, (256, 1), x=(0.032, -94), y=(0.044, 112), dtype=dtype)
    every = np.arange(256) + LOW[dtype]
    feeds = {"x": every.reshape(256, 1).astype(dtype), "z": every.reshape(1, 256).astype(dtype)}
    assert count_mismatches(graph, feeds) == (0, 65536)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 256, 1), (256, 256, 1)),
        ((256, 256, 1), (1, 256, 1)),
        ((256, 1, 1), (256, 256, 1)),
        ((256, 256, 1), (256, 1, 1)),
        ((1,), (256, 256)),
        ((256, 256), (1,)),
    ],
    ids=str,
)
def test_add_broadcasts_in_onnx_runtimes_order(dtype, a, b):
    """Which operand is rounded first depends on which one is constant along the innermost axis."""

    def build(builder, x):
        second = builder.dequantize(builder.input("z", b, dtype), 0.034, 74 + builder.zero_offset, dtype)
        return builder.node("Add", [x, second])

    assert_exact(integer_model(build, a, x=(0.032, -94), y=(0.044, 112), dtype=dtype), samples=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("a", "b"), [((1, 256), (256, 1)), ((256, 1), (1, 256)), ((256, 1, 1), (1, 256, 1)), ((1, 1), (1, 1))], ids=str
)
def test_reading_an_add_keeps_onnx_runtimes_order(dtype, a, b):
    """Here ONNX Runtime runs the model as it was, not as the writer writes it."""
    offset = 128 if dtype == "uint8" else 0
    builder = Builder()
    names = [builder.input("a", a, dtype), builder.input("b", b, dtype)]
    ap, bp, yp = (
        builder.params(*value, dtype) for value in [(0.032, offset - 94), (0.034, offset + 74), (0.044, offset + 112)]
    )
    y = builder.node("QLinearAdd", [names[0], *ap, names[1], *bp, *yp], "y", "com.microsoft")
    model = builder.model(y)
    graph, session = read(model, "net"), oracle_session(model)
    samples = 1 if 256 in a else 3000
    feeds = random_feeds(graph, samples, 5)
    results = reference.run(graph, feeds)["y"].reshape(samples, -1)
    for sample, result in enumerate(results):
        part = {name: feed.reshape(samples, *graph.tensors[name].shape)[sample] for name, feed in feeds.items()}
        assert np.array_equal(result, session.run(None, part)[0].reshape(-1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_of_single_elements(dtype):
    def build(b, x):
        second = b.dequantize(b.input("z", (1, 1), dtype), 0.034, 74 + b.zero_offset, dtype)
        return b.node("Add", [x, second])

    graph = integer_model(build, (1, 1), x=(0.032, -94), y=(0.044, 112), dtype=dtype)
    every = np.arange(256) + LOW[dtype]
    feeds = {
        "x": np.repeat(every, 256).reshape(-1, 1).astype(dtype),
        "z": np.tile(every, 256).reshape(-1, 1).astype(dtype),
    }
    assert count_mismatches(graph, feeds) == (0, 65536)


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_of_a_constant(dtype):
    def build(b, x):
        return b.node("Add", [b.weight(weights(40, dtype=dtype), np.float32(0.02), 5 + b.zero_offset), x])

    graph = integer_model(build, (3, 40), x=(0.037, -11), y=(0.041, -3), dtype=dtype)
    assert kinds(graph) == ["Add"]
    assert_exact(graph, samples=9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel", "strides"), [((9, 7), (1, 1)), ((3, 2), (2, 2)), ((1, 7), (3, 1))])
def test_average_pool(dtype, kernel, strides):
    def build(b, x):
        return b.node("AveragePool", [x], kernel_shape=kernel, strides=strides)

    graph = integer_model(build, (2, 5, 9, 7), x=(0.037, -11), y=(0.011, -3), dtype=dtype)
    assert kinds(graph) == ["AveragePool"]
    assert_exact(graph, samples=9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_global_average_pool_of_one_dimension(dtype):
    def build(b, x):
        return b.node("Relu", [b.node("GlobalAveragePool", [x])])

    graph = integer_model(build, (2, 5, 9), x=(0.037, -11), y=(0.011, -90), dtype=dtype)
    assert kinds(graph) == ["Reshape", "AveragePool", "Reshape"]
    assert_exact(graph, samples=9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_max_pool(dtype):
    def build(b, x):
        attributes = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2]}
        return b.node("MaxPool", [x], ceil_mode=1, **attributes)

    graph = integer_model(build, (2, 5, 9, 7), y=(0.5, 3), dtype=dtype)
    assert kinds(graph) == ["MaxPool"]
    assert_exact(graph)


@pytest.mark.parametrize("dtype", DTYPES)
def test_data_movement(dtype):
    def build(b, x):
        turned = b.node("Transpose", [x], perm=[2, 0, 3, 1])
        constant = b.weight(weights(4, 2, 5, 1, dtype=dtype), np.float32(0.5), 3 + b.zero_offset)
        joined = b.node("Concat", [turned, turned, constant], axis=3)
        padded = b.node("Pad", [joined, b.constant([1, 0, 0, 2, 0, 3, 0, 1]), b.constant(-2, np.float32)])
        return b.node("Reshape", [padded, b.constant([5, -1])])

    graph = integer_model(build, (2, 3, 4, 5), y=(0.5, 3), dtype=dtype)
    assert kinds(graph) == ["Transpose", "Concat", "Pad", "Reshape"]
    assert_exact(graph)


@pytest.mark.parametrize("dtype", DTYPES)
def test_qoperator_nodes(dtype):
    offset = 128 if dtype == "uint8" else 0
    b = Builder()
    microsoft = {"domain": "com.microsoft"}
    x = b.input("x", (1, 4, 6, 6), dtype)
    xp, yp = b.params(0.05, offset + 2, dtype), b.params(0.04, offset - 7, dtype)
    wp = [b.constant(RNG.uniform(0.01, 0.02, 8), np.float32), b.constant(np.zeros(8), np.int8)]
    conv = b.node(
        "QLinearConv", [x, *xp, b.constant(weights(8, 4, 3, 3)), *wp, *yp, b.constant(np.arange(8), np.int32)]
    )
    pooled = b.node("MaxPool", [conv], kernel_shape=[2, 2])
    average = b.node("QLinearAveragePool", [pooled, *yp, *xp], kernel_shape=[2, 1], **microsoft)
    joined = b.node("QLinearConcat", [*xp, average, *xp, average, *xp], axis=1, **microsoft)
    total = b.node("QLinearGlobalAveragePool", [joined, *xp, *yp], channels_last=0, **microsoft)
    flat = b.node("Flatten", [total])
    wp = [b.constant(0.01, np.float32), b.constant(3, np.int8)]
    matrix = b.node("QLinearMatMul", [flat, *yp, b.constant(weights(16, 5)), *wp, *xp])
    both = b.node("QLinearAdd", [matrix, *xp, b.constant(weights(5, dtype=dtype)), *yp, *yp], **microsoft)
    bias = b.constant(np.arange(3), np.int32)
    last = b.node("QGemm", [both, *yp, b.constant(weights(3, 5)), *wp, bias, *xp], alpha=0.7, transB=1, **microsoft)
    model = b.model(last, types={last: (dtype, None)})
    graph = read(model, "net")
    assert kinds(graph) == [
        "Conv", "MaxPool", "AveragePool", "Concat", "AveragePool", "Reshape", "Gemm", "Add", "Gemm"
    ]  # fmt: skip
    assert len(graph.rewrites) == 1
    assert_exact(graph, samples=20)
    # The model as it was differs only by the window average, by one step at most and at few elements.
    feeds = random_feeds(graph, 20, 1)
    session = oracle_session(model)
    expected = np.concatenate([session.run(None, {"x": sample[np.newaxis]})[0] for sample in feeds["x"]])
    difference = np.abs(reference.run(graph, feeds)[last].astype(int) - expected.astype(int))
    assert difference.max() <= 1


def test_host_nodes_between_integer_ones():
    def build(b, x):
        conv = b.node("Conv", [x, b.weight(weights(4, 4, 1, 1), 0.01)])
        first = b.dequantize(b.quantize(conv, 0.25, 4), 0.25, 4)
        soft = b.dequantize(b.quantize(b.node("Softmax", [first]), 1 / 256, -128), 1 / 256, -128)
        return b.node("Conv", [soft, b.weight(weights(4, 4, 1, 1), 0.01)])

    graph = integer_model(build, (1, 4, 5, 5))
    assert kinds(graph) == ["Conv", "DequantizeLinear", "Softmax", "QuantizeLinear", "Conv"]
    assert_exact(graph)


# Samples --------------------------------------------------------------------------------------------------------------


def mixing_model():
    """A model that moves its own batch axis about, so samples must not be told from it by shape."""

    def build(b, x):
        turned = b.node("Transpose", [x], perm=[1, 0])
        return b.node("Concat", [turned, turned], axis=0)

    return integer_model(build, (2, 2), y=(0.5, 3))


def test_samples_are_independent():
    graph = mixing_model()
    x = RNG.integers(-128, 128, (6, 2)).astype(np.int8)
    together = reference.run(graph, {"x": x})["y"]
    apart = [reference.run(graph, {"x": x[start : start + 2]})["y"] for start in (0, 2, 4)]
    assert np.array_equal(together, np.concatenate(apart))


def test_keep_returns_intermediates():
    graph = mixing_model()
    inner = graph.ops[0].outputs[0]
    x = np.array([[1, 2], [3, 4]], np.int8)
    results = reference.run(graph, {"x": x}, keep=[inner])
    assert list(results) == ["y", inner]
    assert np.array_equal(results[inner], x.T)


def test_keep_returns_intermediates_of_the_host():
    b = Builder()
    inner = b.node("Neg", [b.input("x", (1, 2))])
    graph = read(b.model(b.node("Exp", [b.node("Abs", [inner])], "y")), "net")
    x = np.array([[-1, 3]], np.float32)
    results = reference.run(graph, {"x": x}, keep=[inner])
    assert np.array_equal(results[inner], -x)


def test_tensors_nobody_reads_any_more_are_let_go():
    names, size = "xabcdefghy", 1 << 20
    graph = Graph("net", ["x"], ["y"], {name: Tensor(name, (1, size), "int8", 1.0, 0) for name in names})
    for x, y in itertools.pairwise(names):
        graph.ops.append(Pad(name=y, inputs=(x,), outputs=(y,), begin=(0, 0), end=(0, 0), value=0))
    tracemalloc.start()
    reference.run(graph, {"x": np.zeros((1, size), np.int8)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * size


def test_graph_without_operators_returns_its_input():
    tensor = Tensor("x", (2,), "int8", 1.0, 0)
    graph = Graph("net", ["x"], ["x"], {"x": tensor})
    assert reference.run(graph, {"x": np.array([1, 2, 3, 4], np.int8)})["x"].tolist() == [1, 2, 3, 4]


def test_a_scalar_is_one_sample():
    graph = Graph("net", ["x"], ["x"], {"x": Tensor("x", (), "int8", 1.0, 0)})
    assert reference.run(graph, {"x": np.array(5, np.int8)})["x"].tolist() == 5
    with pytest.raises(InputError, match=r"must have shape \(\)"):
        reference.run(graph, {"x": np.array([5, 6], np.int8)})


def test_constant_output_is_repeated_for_each_sample():
    tensors = {name: Tensor(name, (1, 2), "int8", 1.0, 0) for name in "xcy"}
    graph = Graph("net", ["x"], ["y"], tensors, {"c": np.array([[5, 6]], np.int8)})
    graph.ops.append(Reshape(name="r", inputs=("c",), outputs=("y",)))
    assert reference.run(graph, {"x": np.zeros((3, 2), np.int8)})["y"].tolist() == [[5, 6]] * 3


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"x": np.zeros((2, 2), np.int8), "q": np.zeros(1)}, "has no input 'q': its inputs are x"),
        ({"x": np.zeros((2, 2), np.uint8)}, "input 'x' must be int8, not uint8"),
        ({"x": np.zeros((2, 3), np.int8)}, r"must have shape \(2, 2\).*not \(2, 3\)"),
        ({"x": np.zeros((3, 2), np.int8)}, r"multiple of it along the first dimension, not \(3, 2\)"),
        ({"x": np.zeros((2, 2, 1), np.int8)}, r"not \(2, 2, 1\)"),
        ({"x": np.zeros((0, 2), np.int8)}, "at least 1"),
    ],
)
def test_feeds_that_do_not_fit(feeds, message):
    with pytest.raises(InputError, match=message):
        reference.run(mixing_model(), feeds)


def test_inputs_with_different_numbers_of_samples():
    def build(b, x):
        return b.node("Add", [x, b.dequantize(b.input("z", (1, 2), "int8"), 0.5, 3)])

    graph = integer_model(build, (1, 2))
    with pytest.raises(InputError, match="same number of samples, at least 1 \\('x' 2, 'z' 3\\)"):
        reference.run(graph, {"x": np.zeros((2, 2), np.int8), "z": np.zeros((3, 2), np.int8)})


def test_results_whose_shape_depends_on_values():
    b = Builder()
    graph = read(b.model(b.node("NonZero", [b.input("x", (4,))], "y"), types={"y": ("int64", None)}), "net")
    assert reference.run(graph, {"x": np.ones(4, np.float32)})["y"].tolist() == [[0, 1, 2, 3]]
    with pytest.raises(ModelError, match=r"tensor 'y' has shape \(1, 3\) on these inputs and \(1, 4\) on others"):
        reference.run(graph, {"x": np.array([1, 0, 1, 1], np.float32)})


def test_unknown_tensor_to_keep():
    with pytest.raises(InputError, match="no tensor 'ghost'"):
        reference.run(mixing_model(), {"x": np.zeros((2, 2), np.int8)}, keep=["ghost"])


# Parts ----------------------------------------------------------------------------------------------------------------


def test_pieces_keep_every_partial_sum_below_24_bits():
    weight = RNG.integers(-255, 256, (5000, 3))
    pieces = exact_pieces(weight, 255)
    assert len(pieces) > 1
    assert [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
    assert (pieces[0].start, pieces[-1].stop) == (0, 5000)
    for piece in pieces:
        assert np.abs(weight[piece]).sum(axis=0).max() * 255 < 2**24


def test_matmul_is_exact_where_float32_is_not():
    weight = np.full((4096, 1), 255)
    x = np.full((1, 4096), 255)
    x[0, 0] = 254
    pieces = exact_pieces(weight, 255)
    acc = exact_matmul(x.astype(np.float32), weight.astype(np.float32), pieces)
    assert acc.dtype == np.int32
    assert int(acc[0, 0]) == 4096 * 255 * 255 - 255
    assert int(acc[0, 0]) != int(np.float32(4096 * 255 * 255 - 255))


def test_model_onnx_runtime_refuses():
    with pytest.raises(ModelError, match="ONNX Runtime can't run the model: "):
        oracle_session(b"junk")


# The bundled network --------------------------------------------------------------------------------------------------


def test_demo_network_equals_onnx_runtime_on_its_samples():
    graph = read(demo.model_path())
    images, labels = demo.load_samples()
    assert reasons(graph) == {"QuantizeLinear": EDGE, "DequantizeLinear": EDGE}
    assert graph.rewrites == []
    mismatches, elements = count_mismatches(graph, {graph.inputs[0]: images})
    assert elements > 100_000
    assert mismatches == 0
    predicted = reference.run(graph, {graph.inputs[0]: images})[graph.outputs[0]].argmax(axis=1)
    assert np.mean(predicted == labels) > 0.95
