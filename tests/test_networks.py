"""Third-party networks down the whole ladder: equal in every element on every rung, in exactly the predicted cycles."""

import numpy as np
import pytest

from hwq.compiler import load, random_feeds
from hwq.ladder import verify

pytestmark = pytest.mark.system

ARCHS = {"ecp5-8x16": 4, "sim-4x4": 2}
"""Architectures, and how many real samples and as many random ones each runs; the smaller array takes longer."""
EDGES = {"QuantizeLinear", "DequantizeLinear"}
SOFTMAX = EDGES | {"Softmax"}
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
}
LARGER_THAN_THE_MEMORIES = {
    "models/coral_mbv1_025_128_uint8/coral_mbv1_025_128_uint8.tf2onnx-op13.onnx": 4,
    "integer_goldens/dory/NAS_Frontnet/Frontnet.onnx": 2,
}
"""Networks that exceed the memories of ecp5-8x16, and how many pages they take at least."""
CYCLE_LIMITS = {
    "models/mlperf_ic_resnet8/resnet.onnx": 112_000,
    "models/mlperf_kws_dscnn/kws_ref_model.onnx": 30_300,
    "models/mlperf_vww_mbv1_025/mobilenet_v1.onnx": 95_800,
    "models/mlperf_ad_autoencoder/deep_autoencoder.onnx": 18_000,
}
"""Cycles an inference may take at most on ecp5-8x16."""


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
    tensor = graph.tensors[name]
    real = np.load(workloads / "goldens" / f"{golden}.npz")[key][: ARCHS[arch]]
    real = real.reshape(-1, *tensor.shape[1:]).astype(tensor.dtype)
    feeds = {name: np.concatenate([real, random_feeds(graph, ARCHS[arch], seed=7)[name]])}
    report = verify(graph, arch, inputs=feeds)
    assert report.samples == 2 * ARCHS[arch]
    assert_equal(report)
    assert {node.op for node in report.host_nodes} == host
    if arch == "ecp5-8x16" and path in CYCLE_LIMITS:
        assert report.cycles_measured <= CYCLE_LIMITS[path]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", ["conv_qdq_s8s8", "conv_qdq_u8u8", "qdq_conv", "qdq_convs", "dup_qdq"])
def test_one_operator_model_is_equal_on_every_rung(workloads, name, arch):
    report = verify(workloads / "unit_ort" / f"{name}.onnx", arch, samples=2, seed=3)
    assert_equal(report)
    assert {node.op for node in report.host_nodes} <= EDGES


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
