"""Third-party networks down the whole ladder: equal in every element on every rung, in exactly the predicted cycles."""

import dataclasses

import numpy as np
import pytest

from hwq import isa
from hwq.compiler import compile, load, random_feeds
from hwq.config import PRESETS
from hwq.costs import estimate
from hwq.ladder import verify
from hwq.quantize.codebook import share_weights
from hwq.runtime import InferenceSession
from tests.lowbit_networks import narrowed
from tests.onnx_models import as_input

pytestmark = pytest.mark.system

ARCHS = {"ecp5-8x16": 4, "sim-4x4": 2}
"""Architectures, and how many real samples and as many random ones each runs; the smaller array takes longer."""
EDGES = {"QuantizeLinear", "DequantizeLinear"}
SOFTMAX = EDGES | {"Softmax"}
AFFINE = EDGES | {"Clip", "Reshape", "Mul", "Sub", "Div", "Add"}
KWS = "models/tum_micro_kws_m/micro_kws_m_static"
NETWORKS = {
    # path below the workloads: (golden inputs and their key, operators left to the host)
    "models/mlperf_ic_resnet8/resnet.onnx": ("mlperf_ic_resnet8", "input_float", SOFTMAX),
    "models/mlperf_kws_dscnn/kws_ref_model.onnx": ("mlperf_kws_dscnn", "input_float", SOFTMAX),
    "models/mlperf_vww_mbv1_025/mobilenet_v1.onnx": ("mlperf_vww_mbv1_025", "input_float", SOFTMAX),
    "models/mlperf_ad_autoencoder/deep_autoencoder.onnx": ("mlperf_ad_autoencoder", "input_float", EDGES),
    f"{KWS}_qdq.onnx": ("tum_micro_kws_m", "input_quant", SOFTMAX),
    f"{KWS}_qoperator.onnx": ("tum_micro_kws_m", "input_quant", EDGES | {"QLinearSoftmax"}),
    f"{KWS}_qoperator_tvm.onnx": ("tum_micro_kws_m", "input_quant", SOFTMAX),
    "models/emlearn_mnist_cnn/emlearn_mnist_cnn.tf2onnx-op13.onnx": ("emlearn_mnist_cnn", "input_quant", SOFTMAX),
    "models/tinymaix_mnist_valid/tinymaix_mnist_valid.tf2onnx-op13.onnx": (
        "tinymaix_mnist_valid",
        "input_quant",
        SOFTMAX,
    ),
    "float/ic_resnet8.ortq_qdq_s8s8_perch.onnx": ("ic_resnet8.ortq_qdq_s8s8_perch", "input_float", SOFTMAX),
    "float/ic_resnet8.ortq_qop_u8s8_pert.onnx": (
        "ic_resnet8.ortq_qop_u8s8_pert",
        "input_float",
        EDGES | {"QLinearSoftmax"},
    ),
    "float/ic_resnet8.ortq_qdq_u8s4w_perch.onnx": ("ic_resnet8.ortq_qdq_u8s4w_perch", "input_float", SOFTMAX),
    "float/vww_96.ortq_qdq_u8s4w_perch.onnx": ("vww_96.ortq_qdq_u8s4w_perch", "input_float", SOFTMAX),
    "lowbit/tfc_2w2a.qcdq.onnx": ("tfc_2w2a.qcdq", "input_float", AFFINE),
    "lowbit/tfc_2w2a.qonnx.onnx": ("tfc_2w2a.qcdq", "input_float", AFFINE),
}
UNITS = ["conv_qdq_s8s8", "conv_qdq_u8u8", "conv.int4_weights.qdq", "qdq_conv", "qdq_convs", "dup_qdq"]
LARGER_THAN_THE_MEMORIES = {
    "models/coral_mbv1_025_128_uint8/coral_mbv1_025_128_uint8.tf2onnx-op13.onnx": 4,
    "integer_goldens/dory/NAS_Frontnet/Frontnet.onnx": 1,
}
"""Networks that exceed the memories of ecp5-8x16, and how many pages they take at least."""
CYCLE_LIMITS = {
    "models/mlperf_ic_resnet8/resnet.onnx": 112_000,
    "models/mlperf_kws_dscnn/kws_ref_model.onnx": 30_300,
    "models/mlperf_vww_mbv1_025/mobilenet_v1.onnx": 95_800,
    "models/mlperf_ad_autoencoder/deep_autoencoder.onnx": 18_000,
}
"""Cycles an inference may take at most on ecp5-8x16."""


INT4_RATES = {
    # at most this share of the cycles the same network takes with 8-bit weights
    "float/ic_resnet8.ortq_qdq_u8s4w_perch.onnx": (0.75, 98_361),
    "models/mlperf_ic_resnet8/resnet.onnx": (0.75, 98_361),
    "models/mlperf_kws_dscnn/kws_ref_model.onnx": (0.70, 25_595),
}


CODEBOOKS = [
    # a book for each layer, or for each of its blocks of channels
    ("models/mlperf_ic_resnet8/resnet.onnx", False),
    ("models/mlperf_ic_resnet8/resnet.onnx", True),
    ("models/mlperf_kws_dscnn/kws_ref_model.onnx", False),
]


def assert_equal(report):
    assert [(rung.name, rung.mismatches) for rung in report.rungs] == [
        ("reference", 0),
        ("machine", 0),
        ("verilator", 0),
    ]
    assert report.cycles_measured == report.cycles_predicted
    assert [layer.cycles_measured for layer in report.layers] == [layer.cycles_predicted for layer in report.layers]
    assert report.ok


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("path", NETWORKS)
def test_network_is_equal_on_every_rung(workloads, path, arch):
    golden, key, host = NETWORKS[path]
    graph = load(workloads / path)
    (name,) = graph.inputs
    real = as_input(graph.tensors[name], np.load(workloads / "goldens" / f"{golden}.npz")[key][: ARCHS[arch]])
    feeds = {name: np.concatenate([real, random_feeds(graph, ARCHS[arch], seed=7)[name]])}
    report = verify(graph, arch, inputs=feeds)
    assert report.samples == 2 * ARCHS[arch]
    assert_equal(report)
    assert {node.op for node in report.host_nodes} == host
    if arch == "ecp5-8x16" and path in CYCLE_LIMITS:
        assert report.cycles_measured <= CYCLE_LIMITS[path]


@pytest.mark.parametrize("path", INT4_RATES)
def test_network_of_4_bit_weights_is_faster_and_half_as_large(workloads, path):
    whole, of_bytes = INT4_RATES[path]
    graph = load(workloads / path)
    graph = graph if "s4w" in path else narrowed(graph)
    wide = compile(graph, "ecp5-8x16", golden=False, weights="int8")
    report = verify(graph, "ecp5-8x16", samples=2, seed=4)
    assert_equal(report)
    assert report.cycles_measured <= whole * of_bytes
    rates = []
    before = {layer.name: layer for layer in estimate(wide).layers}
    for layer in report.layers:
        was = before[layer.name]
        paired = layer.op.startswith("Conv") and layer.weight_bytes * 2 == was.weight_bytes
        if paired and layer.bound == was.bound == "mac" and was.cycles_predicted > 4000:
            rates.append(was.cycles_predicted / layer.cycles_measured)
    assert len(rates) >= 4
    assert min(rates) >= 1.95


@pytest.mark.parametrize("path", INT4_RATES)
def test_compact_network_of_4_bit_weights_takes_half_the_memory(workloads, path):
    whole, of_bytes = INT4_RATES[path]
    graph = load(workloads / path)
    graph = graph if "s4w" in path else narrowed(graph)
    wide = compile(graph, "ecp5-8x16", golden=False, weights="int8", compact=True)
    narrow = compile(graph, "ecp5-8x16", compact=True)
    assert abs(narrow.weights.size / wide.weights.size - 0.5) <= 0.5 * 0.03
    assert estimate(narrow).cycles_predicted <= whole * of_bytes
    outputs = [tensor.name for tensor in narrow.outputs]
    feeds = {tensor.name: narrow.golden[tensor.name] for tensor in narrow.inputs}
    for name, value in zip(outputs, InferenceSession(narrow, target="machine").run(outputs, feeds), strict=True):
        np.testing.assert_array_equal(value, narrow.golden[name])


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("path", "by_block"), CODEBOOKS)
def test_network_of_shared_weights_is_equal_in_half_the_memory(workloads, path, by_block, arch):
    model = share_weights(workloads / path, PRESETS[arch].cols if by_block else None)
    wide = compile(model, arch, golden=False, weights="int8")
    narrow = compile(model, arch, golden=False, weights="codebook")
    books = {d["codebook"] for step in narrow.array_steps for d in narrow.descriptors(step.slot)}
    assert (isa.Codebook.BLOCK in books) == by_block
    if arch == "ecp5-8x16" or not by_block:  # a book takes a word of 16 columns, but four of four
        assert narrow.weights.size <= 0.5 * 1.03 * wide.weights.size
    assert estimate(narrow).cycles_predicted <= 1.01 * estimate(wide).cycles_predicted
    report = verify(model, arch, weights="codebook", samples=1, seed=6)
    assert_equal(report)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", UNITS)
def test_one_operator_model_is_equal_on_every_rung(workloads, name, arch):
    report = verify(workloads / "unit_ort" / f"{name}.onnx", arch, samples=2, seed=3)
    assert_equal(report)
    assert {node.op for node in report.host_nodes} <= EDGES


@pytest.mark.parametrize("form", ["qcdq", "qonnx"])
def test_super_resolution_network_is_equal_on_the_machine(workloads, form):
    """Its images of 64 channels take 1.03 MiB each, so the array has four times the memory of sim-4x4."""
    arch = dataclasses.replace(PRESETS["sim-4x4"], name="wide-4x4", act_bytes=1 << 22)
    path = workloads / "lowbit" / f"espcn_nnresize_w4a4.{form}.onnx"
    report = verify(path, arch, samples=1, targets=["reference", "machine"])
    assert report.ok
    assert report.macs > 900_000_000


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("path", LARGER_THAN_THE_MEMORIES)
def test_network_larger_than_the_memories_is_equal_on_every_rung(workloads, path, arch):
    report = verify(workloads / path, arch, samples=2, seed=5)
    assert_equal(report)
    least = LARGER_THAN_THE_MEMORIES[path] if arch == "ecp5-8x16" else 1
    assert report.pages >= least
    assert not any("memories" in node.reason for node in report.host_nodes)
    if arch == "ecp5-8x16" and "coral" in path:
        assert {node.op for node in report.host_nodes} == SOFTMAX
