"""Operators from ONNX to the machine: equal to the model as it was, to the oracle graph and to the reference."""

import numpy as np
import onnx
import pytest

from hwq import compile, estimate, onnx_constraints, reference
from hwq.compiler import split
from hwq.config import load_arch
from hwq.host import oracle_session
from hwq.images import Images
from hwq.ladder import verify
from hwq.onnx_reader import read
from hwq.passes.partition import ArrayPart
from hwq.runtime import InferenceSession
from hwq.schedule import schedule
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


# Moving elements ------------------------------------------------------------------------------------------------------


MOVERS = {
    "slice": (lambda b, x: b.node("Slice", [x, *map(b.constant, ([1, 0], [-1, 99], [2, 1], [2, 3]))]), (1, 8, 6, 5)),
    "slice backwards": (
        lambda b, x: b.node("Slice", [x, *map(b.constant, ([-1, 4], [-99, 0], [3, 2], [-1, -2]))]),
        (1, 8, 6, 5),
    ),
    "slice of a vector": (lambda b, x: b.node("Slice", [x, b.constant([2]), b.constant([7]), b.constant([1])]), (3, 9)),
    "expand": (lambda b, x: b.node("Expand", [x, b.constant([1, 8, 4, 5])]), (1, 8, 1, 1)),
    "expand to more axes": (lambda b, x: b.node("Expand", [x, b.constant([2, 3, 5])]), (3, 1)),
    "depth to space": (lambda b, x: b.node("DepthToSpace", [x], blocksize=2), (1, 12, 3, 4)),
    "depth to space, columns": (lambda b, x: b.node("DepthToSpace", [x], blocksize=2, mode="CRD"), (2, 12, 3, 4)),
    "space to depth": (lambda b, x: b.node("SpaceToDepth", [x], blocksize=2), (1, 3, 4, 6)),
    "squeeze and unsqueeze": (
        lambda b, x: b.node("Unsqueeze", [b.node("Squeeze", [x, b.constant([0])]), b.constant([1])]),
        (1, 6, 4),
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MOVERS)
def test_movers(name, dtype):
    build, shape = MOVERS[name]
    check(model_of(build, shape, dtype))


NEAREST = [
    {"coordinate_transformation_mode": mode, "nearest_mode": rounding}
    for mode in ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
    for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
]


@pytest.mark.parametrize("attributes", NEAREST, ids=lambda attributes: "-".join(attributes.values()))
def test_nearest_resize_is_exact_or_on_the_host(attributes):
    on_array = 0
    for factors in ((2, 2), (3, 1), (1, 4), (0.5, 1), (1 / 3, 0.5), (1.5, 1), (2, 0.5)):
        scales = np.array([1, 1, *factors], np.float32)

        def build(b, x, scales=scales):
            return b.node("Resize", [x, "", b.constant(scales)], mode="nearest", **attributes)

        model = model_of(build, (1, 4, 6, 6))
        if "HostNode" in {op.kind for op in read(model, "net").ops}:
            assert reasons(read(model, "net"))["Resize"] == onnx_constraints.sentence(
                onnx_constraints.constraint_whole_steps
            )
        else:
            check(model, samples=2)
            on_array += 1
    assert on_array or attributes["coordinate_transformation_mode"] == "align_corners"


def test_resize_to_sizes():
    check(model_of(lambda b, x: b.node("Resize", [x, "", "", b.constant([1, 4, 12, 6])]), (1, 4, 6, 6)))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolating_resize_stays_on_the_host(mode):
    def build(b, x):
        return b.node("Resize", [x, "", b.constant([1, 1, 2, 2], np.float32)], mode=mode)

    graph = read(model_of(build, (1, 4, 6, 6)), "net")
    assert reasons(graph)["Resize"] == onnx_constraints.sentence(onnx_constraints.constraint_whole_steps)


@pytest.mark.parametrize("opset", [12, 13, 18])
def test_split_is_one_slice_an_output(opset):
    def build(b, x):
        sizes = {"split": [2, 5, 1]} if opset < 13 else {}
        inputs = [x] if opset < 13 else [x, b.constant([2, 5, 1])]
        b.nodes.append(onnx.helper.make_node("Split", inputs, ["s0", "s1", "s2"], name="split", axis=1, **sizes))
        return b.node("Concat", ["s2", "s0", "s1"], axis=1)

    graph = check(model_of(build, (1, 8, 3, 4), opset=opset))
    assert kinds(graph) == ["Slice", "Slice", "Slice", "Concat"]


def convolved(b, x, outputs, inputs, kernel=3, dtype="int8", pads=None):
    """Return a padded convolution of `x`, quantized as X."""
    rng = np.random.default_rng(inputs)
    weight = b.weight(
        rng.integers(-128, 128, (outputs, inputs, kernel, kernel)).astype(np.int8), np.full(outputs, 0.003)
    )
    y = b.node("Conv", [x, weight], pads=pads or [kernel // 2] * 4)
    return b.dequantize(b.quantize(y, X[0], zero(X[1], dtype), dtype), X[0], zero(X[1], dtype), dtype)


def test_movers_between_padded_convolutions():
    def build(b, x):
        low = convolved(b, b.node("SpaceToDepth", [x], blocksize=2), 8, 16)
        up = b.node("Resize", [low, "", b.constant([1, 1, 2, 2], np.float32)], mode="nearest")
        left = b.node("Slice", [up, b.constant([0]), b.constant([4]), b.constant([1])])
        return b.node("DepthToSpace", [convolved(b, left, 8, 4)], blocksize=2)

    layers = ["Conv", "Reshape", "Conv"]  # the host does the first and the last
    check(model_of(build, (1, 4, 6, 6)), layers, original=False)


def test_second_operand_of_a_convolution_with_channels_apart():
    def build(b, x):
        turned = b.node("Transpose", [x], perm=[0, 2, 1, 3])
        return b.node("Add", [convolved(b, x, 6, 6), turned])

    check(model_of(build, (1, 6, 6, 6), y=(0.0713, 4)), ["Copy", "Conv+Add"], original=False)


def test_second_operand_of_a_matrix_product_that_is_broadcast():
    def build(b, x):
        weight = b.weight(np.random.default_rng(1).integers(-128, 128, (5, 6)).astype(np.int8), 0.003)
        product = b.node("MatMul", [x, weight])
        product = b.dequantize(b.quantize(product, 0.05, 3), 0.05, 3)
        constant = b.weight(np.random.default_rng(2).integers(-128, 128, (3, 6)).astype(np.int8), np.float32(0.05), 3)
        return b.node("Add", [product, constant])

    check(model_of(build, (2, 3, 5), y=(0.0713, 4)), ["Gemm", "Add"], original=False)


# Concatenation --------------------------------------------------------------------------------------------------------


def dense_block(b, x, dtype="int8", *, chained=True):
    """Return a DenseNet block of three layers."""
    features, channels, layers = x, 8, [x]
    for _ in range(3):
        layers.append(convolved(b, features, 4, channels, 3, dtype))
        features = b.node("Concat", [features, layers[-1]] if chained else layers, axis=1)
        channels += 4
    return convolved(b, features, 6, channels, 1, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_block_is_concatenated_for_free(dtype):
    def build(b, x):
        return dense_block(b, convolved(b, x, 8, 3, 3, dtype), dtype)

    check(model_of(build, (1, 3, 7, 6), dtype), ["Conv"] * 5, original=False)


def test_what_is_concatenated_is_copied_where_that_is_faster():
    def build(b, x):
        features = convolved(b, x, 16, 3)
        for channels in range(16, 40, 8):
            made = convolved(b, convolved(b, features, 32, channels, 1), 8, 32)
            features = b.node("Concat", [features, made], axis=1)
        return convolved(b, features, 16, 40, 1)

    model, faster = model_of(build, (1, 3, 16, 16)), set()
    for name in ("sim-4x4", "ecp5-8x16"):
        config, cycles = load_arch(name), {}
        graph, parts = split(read(model), config)
        for nested in (True, False):
            images = Images(config, nested=nested)
            schedule(graph, [part for part in parts if isinstance(part, ArrayPart)], config, images)
            cycles[nested] = images.cycles()
        assert estimate(compile(model, config, golden=False)).cycles_predicted == min(cycles.values())
        faster.add(cycles[True] < cycles[False])
    assert faster == {True, False}


def test_what_is_in_two_concatenations_is_copied_once():
    def build(b, x):
        first, second = convolved(b, x, 4, 3), convolved(b, x, 5, 3, 1)
        one = b.node("Concat", [first, second], axis=1)
        other = b.node("Concat", [second, first, second], axis=1)
        return b.node("Concat", [convolved(b, one, 4, 9), convolved(b, other, 4, 14)], axis=2)

    check(model_of(build, (1, 3, 7, 6)), original=False)


def test_concatenated_rows_and_what_comes_from_outside():
    def build(b, x):
        constant = b.weight(np.arange(24, dtype=np.int8).reshape(1, 4, 1, 6), np.float32(X[0]), X[1])
        rows = b.node("Concat", [constant, convolved(b, x, 4, 3), convolved(b, x, 4, 3, 1)], axis=2)
        return convolved(b, rows, 5, 4)

    check(model_of(build, (1, 3, 7, 6)), ["Conv", "Conv", "Concat", "Conv"], original=False)


def test_rows_with_a_halo_of_their_own_are_copied():
    def build(b, x):
        top, bottom = convolved(b, x, 4, 3), convolved(b, x, 4, 3, 1)
        rows = convolved(b, b.node("Concat", [top, bottom], axis=2), 4, 4)
        return b.node("Concat", [rows, convolved(b, top, 4, 4)], axis=2)

    check(model_of(build, (1, 3, 7, 6)), ["Conv", "Conv", "Concat", "Conv", "Conv"], original=False)


def test_part_of_an_image_has_no_share_in_its_halo():
    def build(b, x):
        whole = convolved(b, x, 4, 3)
        part = b.node("Slice", [whole, b.constant([2]), b.constant([6]), b.constant([2])])
        return b.node("Concat", [convolved(b, whole, 4, 4), convolved(b, part, 4, 4)], axis=2)

    check(model_of(build, (1, 3, 7, 6)), ["Conv", "Conv", "Copy", "Conv"], original=False)


PARTS = [  # starts, ends, axes, steps, and the pads of the convolution that reads the part
    ([0], [3], [2], [1], [1, 1, 0, 1]),
    ([0], [3], [2], [1], [1, 1, 1, 1]),
    ([4], [7], [2], [1], [0, 0, 1, 0]),
    ([2, 0], [5, 4], [2, 3], [1, 1], [0, 1, 0, 0]),
    ([2, 2], [5, 6], [2, 3], [1, 1], [0, 0, 1, 1]),
    ([1], [3], [1], [1], [1, 1, 1, 1]),
    ([0], [7], [2], [2], [1, 0, 0, 0]),
    ([0], [6], [3], [2], [0, 1, 0, 0]),
    ([3], [-99], [2], [-1], [0, 0, 1, 0]),
]


@pytest.mark.parametrize("parts", [*([part] for part in PARTS), PARTS], ids=str)
def test_parts_of_an_image_share_its_halo_where_they_meet_it(parts):
    def build(b, x):
        whole, flat = convolved(b, x, 4, 3, 5), []
        for *bounds, pads in parts:
            part = b.node("Slice", [whole, *map(b.constant, bounds)])
            part = convolved(b, part, 2, 2 if bounds[2] == [1] else 4, 3, pads=pads)
            flat.append(b.node("Reshape", [part, b.constant([1, -1])]))
        return b.node("Concat", flat, axis=1)

    check(model_of(build, (1, 3, 7, 6)), original=False)


def test_halo_of_another_fill_is_not_shared():
    def build(b, x):
        low = convolved(b, x, 4, 3)
        pooled = b.node("MaxPool", [low], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        joined = b.node("Concat", [low, pooled], axis=1)
        return convolved(b, joined, 4, 8)

    check(model_of(build, (1, 3, 7, 6)), ["Conv", "MaxPool", "Concat", "Conv"], original=False)


def test_pools_and_depthwise_layers_read_parts_of_a_concatenation():
    def build(b, x):
        low = convolved(b, x, 8, 3)
        rng = np.random.default_rng(2)
        weight = b.weight(rng.integers(-128, 128, (8, 1, 3, 3)).astype(np.int8), np.full(8, 0.01))
        spread = b.node("Conv", [low, weight], group=8, pads=[1, 1, 1, 1])
        spread = b.dequantize(b.quantize(spread, *X), *X)
        pooled = b.node("MaxPool", [low], kernel_shape=[2, 2], strides=[1, 1], auto_pad="SAME_UPPER")
        return convolved(b, b.node("Concat", [low, spread, pooled], axis=1), 4, 24, 1)

    check(model_of(build, (2, 3, 7, 6)), original=False)


# Transposed convolution -----------------------------------------------------------------------------------------------

TRANSPOSED = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 2], "strides": [1, 3], "pads": [0, 1, 2, 0]},
    {"kernel_shape": [1, 3], "strides": [2, 2], "output_padding": [1, 0]},
    {"kernel_shape": [2, 2], "strides": [2, 3], "pads": [2, 0, 0, 1], "output_padding": [1, 2]},
]


def transposed(b, x, attributes, inputs=5, outputs=4, per_channel=True, zero_point=0):
    """Return a transposed convolution with bias whose scales are powers of two: ONNX Runtime's floats are exact."""
    rng = np.random.default_rng(inputs)
    values = rng.integers(-128, 128, (inputs, outputs, *attributes["kernel_shape"])).astype(np.int8)
    scale = 2.0 ** -rng.integers(9, 13, outputs) if per_channel else 2.0**-10
    weight = b.weight(values, scale, zero_point, axis=1)
    bias = b.weight(rng.integers(-999, 999, outputs).astype(np.int32), np.float32(2**-5 * scale))
    return b.node("ConvTranspose", [x, weight, bias], **attributes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attributes", TRANSPOSED, ids=str)
@pytest.mark.parametrize("weights", [{}, {"per_channel": False, "zero_point": 7}], ids=["channels", "tensor"])
def test_transposed_convolution(attributes, weights, dtype):
    b = Builder()
    x = b.dequantize(b.input("x", (1, 5, 4, 3), dtype), 2**-5, zero(3, dtype), dtype)
    y = transposed(b, x, attributes, **weights)
    graph = check(b.model(b.quantize(b.node("Relu", [y]), 2**-4, zero(-100, dtype), dtype, "y")))
    assert len(graph.rewrites) == 1


@pytest.mark.parametrize(
    "changes", [{"group": 5}, {"dilations": [2, 1]}, {"auto_pad": "SAME_UPPER"}, {"output_shape": [8, 6]}], ids=str
)
def test_other_transposed_convolutions_stay_on_the_host(changes):
    b = Builder()
    x = b.dequantize(b.input("x", (1, 5, 4, 3), "int8"), 2**-5, 3)
    outputs = 1 if "group" in changes else 4
    y = transposed(b, x, {"kernel_shape": [2, 2], "strides": [2, 2], **changes}, outputs=outputs)
    if "group" in changes:
        b.nodes[-1].input.pop()  # the bias is one a group
    graph = read(b.model(b.quantize(y, 2**-4, 3, output="y")), "net")
    assert reasons(graph)["ConvTranspose"] == onnx_constraints.sentence(onnx_constraints.constraint_plain_transposed)


# On the RTL -----------------------------------------------------------------------------------------------------------


def everything(dtype):
    """Squeeze and excitation, Mul, Sub, Resize, DepthToSpace, Split and Concat in one network."""

    def build(b, x):
        def quantized(value, scale, zero_point):
            zero_point = zero(zero_point, dtype)
            return b.dequantize(b.quantize(value, scale, zero_point, dtype), scale, zero_point, dtype)

        features = convolved(b, x, 8, 3, 3, dtype)
        squeezed = quantized(b.node("ReduceMean", [features], axes=[2, 3], keepdims=1), 0.0131, 4)
        excited = quantized(b.node("Sigmoid", [convolved(b, squeezed, 8, 8, 1, dtype)]), 1 / 256, -128)
        scaled = quantized(b.node("Mul", [features, excited]), 0.0437, 5)
        low = b.node("MaxPool", [scaled], kernel_shape=[2, 2], strides=[2, 2])
        up = b.node("Resize", [low, "", b.constant([1, 1, 2, 2], np.float32)], mode="nearest")
        detail = quantized(b.node("Sub", [scaled, up]), 0.0519, -7)
        b.nodes.append(onnx.helper.make_node("Split", [detail], ["left", "right"], name="split", axis=1))
        deep = quantized(b.node("Mul", ["left", "right"]), 0.0217, 1)
        block = dense_block(b, convolved(b, deep, 8, 4, 3, dtype), dtype)
        shuffled = b.node("DepthToSpace", [convolved(b, block, 8, 6, 1, dtype)], blocksize=2)
        padded = b.node("AveragePool", [shuffled], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
        return convolved(b, quantized(padded, 0.0413, 2), 3, 2, 3, dtype)

    return model_of(build, (1, 3, 8, 6), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_network_of_all_operators(dtype):
    check(everything(dtype), original=False)


@pytest.mark.system
@pytest.mark.parametrize("dtype", DTYPES)
def test_network_of_all_operators_on_every_rung(dtype):
    report = verify(read(everything(dtype), "net"), "sim-4x4", samples=2)
    assert [(rung.name, rung.mismatches) for rung in report.rungs] == [
        ("reference", 0),
        ("machine", 0),
        ("verilator", 0),
    ]
    assert report.cycles_measured == report.cycles_predicted
    assert [layer.cycles_measured for layer in report.layers] == [layer.cycles_predicted for layer in report.layers]
    assert not report.host_nodes
    assert report.ok
