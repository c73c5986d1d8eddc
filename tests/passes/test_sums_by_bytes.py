"""Products whose int32 sums the host reads: against sums by hand, whatever the zero point at run time."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import hwq
from hwq import isa
from hwq.compiler import load, split
from hwq.config import PRESETS
from hwq.ir import Conv, Gemm
from hwq.passes.sums_by_bytes import sums_by_bytes
from tests.onnx_models import Builder

ARCH = PRESETS["sim-4x4"]
WITHOUT = replace(ARCH, sum_bytes=0)
RANGE = {"uint8": (0, 255), "int8": (-128, 127)}


def product(op, weight, shape, dtype="uint8", weight_zero_point=None, zero_point_shape=(), **attributes):
    """A model of one product of the inputs ``x`` and ``zero``, x's zero point."""
    build = Builder()
    names = [build.input("x", shape, dtype), build.constant(weight), build.input("zero", zero_point_shape, dtype)]
    names += [] if weight_zero_point is None else [build.constant(weight_zero_point, weight.dtype)]
    return build.model(build.node(op, names, "y", **attributes), types={"y": ("int32", None)})


def feeds(rng, shape, dtype):
    """Samples of x, the first two of one value only, and zero points at both ends and between."""
    low, high = RANGE[dtype]
    x = rng.integers(low, high, (6, *shape[1:]), dtype, endpoint=True)
    x[0], x[1] = low, high
    zeros = np.array([high, low, low, high, 3, 77], dtype)
    return [{"x": x[n : n + 1], "zero": zero} for n, zero in enumerate(zeros)]


def run(model, feed, arch=ARCH, target="machine"):
    return hwq.InferenceSession(model, arch=arch, target=target).run(None, feed)[0]


def convolved(x, weight, strides, pads, dilations, groups):
    """Sums by definition; x and weights without their zero points, int64."""
    x = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    outputs, inputs, *kernel = weight.shape
    height, width = ((x.shape[2 + a] - (kernel[a] - 1) * dilations[a] - 1) // strides[a] + 1 for a in (0, 1))
    out = np.zeros((len(x), outputs, height, width), np.int64)
    for o, row, column in itertools.product(range(outputs), range(height), range(width)):
        first = o // (outputs // groups) * inputs
        for i, ky, kx in itertools.product(range(inputs), range(kernel[0]), range(kernel[1])):
            place = row * strides[0] + ky * dilations[0], column * strides[1] + kx * dilations[1]
            out[:, o, row, column] += x[:, first + i, *place] * int(weight[o, i, ky, kx])
    return out


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("most", "depth", "count"),
    [(0, 3, 1), (1, 1, 2), (1, 255, 2), (1, 256, 3), (127, 3, 3), (127, 516, 3), (127, 517, 4)],
)
def test_matrix_products_of_every_size_of_sum(dtype, most, depth, count):
    rng = np.random.default_rng(depth)
    weight = rng.integers(-most, most, (depth, 5), np.int8, endpoint=True)
    weight[:, 0], weight[:, 1] = -most, most
    model = product("MatMulInteger", weight, (1, depth), dtype)
    assert [op.byte for op in split(load(model), ARCH)[0].ops if isinstance(op, Gemm)] == list(range(count))
    for feed in feeds(rng, (1, depth), dtype):
        wanted = (feed["x"].astype(np.int64) - int(feed["zero"])) @ weight.astype(np.int64)
        got = run(model, feed)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(("kind", "zero"), [("int8", None), ("uint8", 131), ("int8", np.arange(-3, 4))])
def test_matrix_products_with_zero_points_of_weights(dtype, rank, kind, zero):
    rng = np.random.default_rng(rank)
    weight = rng.integers(*RANGE[kind], (9, 7), kind)
    shape = (1, 4, 9)[3 - rank :] if rank == 3 else (1, 9)
    model = product("MatMulInteger", weight, shape, dtype, zero)
    for feed in feeds(rng, shape, dtype):
        x, w = feed["x"].astype(np.int64) - int(feed["zero"]), weight.astype(np.int64) - (0 if zero is None else zero)
        np.testing.assert_array_equal(run(model, feed), x @ w)


WINDOWS = [
    {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1},
    {"strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 1], "group": 1},
    {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 2], "group": 2},
    {"strides": [1, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 4},
]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("zero", [None, 5])
def test_convolutions(dtype, window, zero):
    rng, groups = np.random.default_rng(7), window["group"]
    weight, shape = rng.integers(-128, 128, (4 if groups == 4 else 6, 4 // groups, 3, 2)).astype(np.int8), (1, 4, 6, 5)
    attributes = {name: value for name, value in window.items() if value != 1}  # of groups, 1 goes without saying
    model = product("ConvInteger", weight, shape, dtype, zero, **attributes)
    assert sum(isinstance(op, Conv) for op in split(load(model), ARCH)[0].ops) > 1
    for feed in feeds(rng, shape, dtype):
        x = feed["x"].astype(np.int64) - int(feed["zero"])
        names = ("strides", "pads", "dilations", "group")
        wanted = convolved(x, weight.astype(np.int64) - (zero or 0), *(window[name] for name in names))
        np.testing.assert_array_equal(run(model, feed), wanted)


def test_without_a_zero_point_and_of_a_quantized_tensor():
    rng, build = np.random.default_rng(3), Builder()
    weight = rng.integers(-128, 128, (6, 4)).astype(np.int8)
    x = build.quantize(build.input("x", (1, 6)), 0.1, 7, "uint8")
    model = build.model(build.node("MatMulInteger", [x, build.constant(weight)], "y"), types={"y": ("int32", None)})
    feed = {"x": rng.uniform(-1, 20, (1, 6)).astype(np.float32)}
    stored = np.clip(np.rint(feed["x"] / np.float32(0.1)) + 7, 0, 255).astype(np.int64)
    np.testing.assert_array_equal(run(model, feed), stored @ weight.astype(np.int64))


def test_a_product_over_a_flattened_image_becomes_convolutions():
    rng, build = np.random.default_rng(9), Builder()
    weight = rng.integers(-128, 128, (3 * 2 * 2, 5)).astype(np.int8)
    stored = build.quantize(build.input("x", (1, 3, 4, 4)), 1.0, 3, "uint8")
    pooled = build.dequantize(stored, 1.0, 3, "uint8")
    pooled = build.node("MaxPool", [pooled], kernel_shape=[2, 2], strides=[2, 2])
    flat = build.node("Flatten", [build.quantize(pooled, 1.0, 3, "uint8")])
    product = build.node("MatMulInteger", [flat, build.constant(weight)], "y")
    model = build.model(product, types={"y": ("int32", None)})
    assert [op.byte for op in split(load(model), ARCH)[0].ops if isinstance(op, Conv)] == [0, 1, 2]
    x = rng.integers(-3, 252, (1, 3, 4, 4))
    wanted = (x.reshape(3, 2, 2, 2, 2).max(axis=(2, 4)).reshape(1, -1) + 3) @ weight.astype(np.int64)
    np.testing.assert_array_equal(run(model, {"x": x.astype(np.float32)}), wanted)


@pytest.mark.system
def test_every_rung_down_to_the_rtl():
    rng, build = np.random.default_rng(4), Builder()
    x, zero = build.input("x", (1, 4, 7, 6), "uint8"), build.input("zero", (1,), "uint8")
    outputs = []
    for index, window in enumerate(WINDOWS):
        most = (128, 8)[index % 2]  # 4 bits, too
        groups, count = window["group"], 4 if window["group"] == 4 else 6
        weight = rng.integers(-most, most, (count, 4 // groups, 3, 3)).astype(np.int8)
        outputs.append(build.node("ConvInteger", [x, build.constant(weight), zero], f"y{index}", **window))
    model = build.model(*outputs, types={name: ("int32", None) for name in outputs})
    report = hwq.verify(model, ARCH, samples=3)
    assert [rung.mismatches for rung in report.rungs] == [0, 0, 0]
    assert report.ok
    assert report.cycles_measured == report.cycles_predicted
    assert not {"ConvInteger", "MatMulInteger"} & {node.op for node in report.host_nodes}
    tensors = load(model).tensors
    macs = [tensors[y].size * 9 * (4 // window["group"]) for y, window in zip(outputs, WINDOWS, strict=True)]
    assert report.macs == sum(macs), "several bytes of the same sums are the same products"


def test_storage_asked_for_by_layer_is_that_of_every_byte():
    rng, build = np.random.default_rng(12), Builder()
    x, zero = build.input("x", (1, 40), "uint8"), build.input("zero", (1,), "uint8")
    for name, values in (("narrow", range(-8, 8)), ("wide", range(-128, 128, 16))):
        weight = rng.choice(np.array(values, np.int8), (40, 12))
        build.node("MatMulInteger", [x, build.constant(weight), zero], name)
    model = build.model("narrow", "wide", types={name: ("int32", None) for name in ("narrow", "wide")})

    def stored(**asked):
        weights = {f"n_{name}": kind for name, kind in asked.items()}
        program = hwq.compile(model, ARCH, golden=False, weights=weights)
        forms = {"n_narrow": [], "n_wide": []}
        for layer in (layer for step in program.array_steps for layer in step.layers):
            (fields,) = list(program.descriptors(layer.first_slot))[: layer.end_slot - layer.first_slot]
            forms[layer.name.partition("/")[0]].append((fields["int4"], fields["codebook"]))
        return tuple(forms.values())

    plain, narrow, book = (0, isa.Codebook.NONE), (1, isa.Codebook.NONE), (0, isa.Codebook.LAYER)
    assert stored() == ([narrow] * 2, [plain] * 3)
    assert stored(narrow="int8") == ([plain] * 2, [plain] * 3)
    assert stored(wide="codebook") == ([narrow] * 2, [book] * 3)
    assert stored(narrow="int8", wide="codebook") == ([plain] * 2, [book] * 3)
    chosen = {"n_narrow": "int8", "n_wide": "codebook"}
    assert hwq.verify(model, ARCH, samples=2, targets=["reference", "machine"], weights=chosen).ok


def test_arrays_without_bytes_of_sums_leave_the_product_to_the_host():
    rng = np.random.default_rng(5)
    model = product("MatMulInteger", rng.integers(-128, 128, (6, 4)).astype(np.int8), (1, 6))
    (node,) = [node for node in hwq.compile(model, WITHOUT).host_nodes if node.op == "MatMulInteger"]
    assert "QuantizeLinear" in node.reason or "integer form" in node.reason
    for feed in feeds(rng, (1, 6), "uint8"):
        np.testing.assert_array_equal(run(model, feed, WITHOUT), run(model, feed))


def test_a_layer_compiled_by_hand_is_refused_without_them():
    rng = np.random.default_rng(6)
    graph = sums_by_bytes(load(product("MatMulInteger", rng.integers(-128, 128, (6, 4)).astype(np.int8), (1, 6))))
    reasons = {node.reason for node in hwq.compile(graph, WITHOUT).host_nodes if node.op == "Gemm"}
    assert reasons == {
        "Sums of 32 bits leave the array byte by byte, on an architecture that writes them so (sum_bytes)."
    }
    feed = {"x": rng.integers(0, 256, (1, 6), np.uint8), "zero": np.array(9, np.uint8)}
    np.testing.assert_array_equal(run(graph, feed, WITHOUT), run(graph, feed))


def test_products_that_stay():
    rng = np.random.default_rng(8)
    weight = rng.integers(-128, 128, (6, 4)).astype(np.int8)
    by_row = product("MatMulInteger", weight, (3, 6), zero_point_shape=(3,))
    image = product("ConvInteger", rng.integers(-9, 9, (2, 3, 2)).astype(np.int8), (1, 3, 5))
    stacked = product("MatMulInteger", weight[np.newaxis], (1, 2, 6))
    build = Builder()
    names = [build.input("x", (1, 6), "uint8"), build.input("w", (6, 4), "int8")]
    moving = build.model(build.node("MatMulInteger", names, "y"), types={"y": ("int32", None)})
    for model in (by_row, image, stacked, moving):
        graph = load(model)
        assert sums_by_bytes(graph) is graph
