"""Third-party networks: the reference equals ONNX Runtime, and both are near what their files compute by themselves."""

import numpy as np
import onnx
import pytest

from hwq import reference
from hwq.errors import ModelError
from hwq.host import oracle_session, original_session
from hwq.onnx_reader import EDGE, read
from hwq.onnx_writer import write
from hwq.oracle import lsb_histogram
from hwq.passes.flatten_to_conv import flatten_to_conv
from hwq.passes.fuse_views import fuse_views
from hwq.passes.partition import ArrayPart, partition
from tests.onnx_models import as_input, assert_exact, count_mismatches, random_feeds, reasons

pytestmark = pytest.mark.system

SOFTMAX = {"DequantizeLinear", "Softmax", "QuantizeLinear"}
NETWORKS = {
    # path below the workloads: (golden inputs, key, host operators that aren't conversions at the edge)
    "models/mlperf_ic_resnet8/resnet.onnx": ("mlperf_ic_resnet8", "input_float", {"Softmax"}),
    "models/mlperf_ic_resnet8/mlperf_ic_resnet8.tf2onnx-op13.onnx": ("mlperf_ic_resnet8", "input_quant", {"Softmax"}),
    "models/mlperf_kws_dscnn/kws_ref_model.onnx": ("mlperf_kws_dscnn", "input_float", {"Softmax"}),
    "models/mlperf_kws_dscnn/mlperf_kws_dscnn.tf2onnx-op13.onnx": ("mlperf_kws_dscnn", "input_quant", {"Softmax"}),
    "models/mlperf_vww_mbv1_025/mobilenet_v1.onnx": ("mlperf_vww_mbv1_025", "input_float", {"Softmax"}),
    "models/mlperf_vww_mbv1_025/mlperf_vww_mbv1_025.tf2onnx-op13.onnx": (
        "mlperf_vww_mbv1_025",
        "input_quant",
        {"Softmax"},
    ),
    "models/mlperf_ad_autoencoder/deep_autoencoder.onnx": ("mlperf_ad_autoencoder", "input_float", set()),
    "models/mlperf_ad_autoencoder/mlperf_ad_autoencoder.tf2onnx-op13.onnx": (
        "mlperf_ad_autoencoder",
        "input_quant",
        set(),
    ),
    "models/coral_mbv1_025_128_uint8/coral_mbv1_025_128_uint8.tf2onnx-op13.onnx": (
        "coral_mbv1_025_128_uint8",
        "input_quant",
        {"Softmax"},
    ),
    "models/emlearn_mnist_cnn/emlearn_mnist_cnn.tf2onnx-op13.onnx": ("emlearn_mnist_cnn", "input_quant", {"Softmax"}),
    "models/tinymaix_mnist_valid/tinymaix_mnist_valid.tf2onnx-op13.onnx": (
        "tinymaix_mnist_valid",
        "input_quant",
        {"Softmax"},
    ),
    "models/tinymaix_mnist_dw/tinymaix_mnist_dw.tf2onnx-op13.onnx": ("tinymaix_mnist_dw", "input_quant", {"Softmax"}),
    "models/tum_micro_kws_m/micro_kws_m_static_qdq.onnx": ("tum_micro_kws_m", "input_quant", {"Softmax"}),
    "models/tum_micro_kws_m/micro_kws_m_static_qoperator.onnx": (
        "tum_micro_kws_m",
        "input_quant",
        {"QLinearSoftmax"},
    ),
    "models/tum_micro_kws_m/micro_kws_m_static_qoperator_tvm.onnx": ("tum_micro_kws_m", "input_quant", {"Softmax"}),
    "float/ic_resnet8.ortq_qdq_s8s8_perch.onnx": ("ic_resnet8.ortq_qdq_s8s8_perch", "input_float", {"Softmax"}),
    "float/ic_resnet8.ortq_qop_u8s8_pert.onnx": ("ic_resnet8.ortq_qop_u8s8_pert", "input_float", {"QLinearSoftmax"}),
    "float/ic_resnet8.ortq_qdq_u8s4w_perch.onnx": ("ic_resnet8.ortq_qdq_u8s4w_perch", "input_float", {"Softmax"}),
    "float/vww_96.ortq_qdq_s8s8_perch.onnx": ("vww_96.ortq_qdq_s8s8_perch", "input_float", {"Softmax"}),
    "float/vww_96.ortq_qop_u8s8_pert.onnx": ("vww_96.ortq_qop_u8s8_pert", "input_float", {"QLinearSoftmax"}),
    "float/vww_96.ortq_qdq_u8s4w_perch.onnx": ("vww_96.ortq_qdq_u8s4w_perch", "input_float", {"Softmax"}),
}
UNITS = {
    "conv_qdq_s8s8": set(),
    "conv_qdq_u8u8": set(),
    "conv.int4_weights.qdq": set(),
    "qdq_conv": set(),
    "qdq_convs": set(),
    "dup_qdq": set(),
    "constant_folding_qdq_node_unit": {"Add"},
    "qdq_with_multi_consumer_dq_nodes": {"Add"},
    "layout_transform_const_folding.qdq": {"Mul"},
    "nhwc_resize_sizes_opset18.quant": {"Resize", "Slice"},
    "dynamic_quantize_matmul": {"DynamicQuantizeLinear", "MatMulInteger", "Mul", "Cast"},
    "ort_github_issue_12151": {"Transpose"},
}


def golden_feeds(workloads, graph, golden, key):
    values = np.load(workloads / "goldens" / f"{golden}.npz")[key]
    (name,) = graph.inputs
    return {name: as_input(graph.tensors[name], values)}


def host_operators(graph):
    return {op for op, reason in reasons(graph).items() if reason != EDGE}


@pytest.mark.parametrize("path", NETWORKS)
def test_network_equals_onnx_runtime_on_real_inputs(workloads, path):
    golden, key, host = NETWORKS[path]
    graph = read(workloads / path)
    assert host_operators(graph) == host
    mismatches, elements = count_mismatches(graph, golden_feeds(workloads, graph, golden, key))
    assert elements > 0
    assert mismatches == 0, f"{mismatches} of {elements}"


@pytest.mark.parametrize("path", NETWORKS)
def test_network_equals_onnx_runtime_on_random_inputs(workloads, path):
    assert_exact(read(workloads / path), samples=2, seed=17)


@pytest.mark.parametrize("name", UNITS)
def test_one_operator_model_equals_onnx_runtime(workloads, name):
    graph = read(workloads / "unit_ort" / f"{name}.onnx")
    assert host_operators(graph) == UNITS[name]
    assert_exact(graph, samples=2 if graph.inputs else 1)


@pytest.mark.parametrize("name", ["qdq_fusion_int8", "qdq_fusion_zp_not_provided"])
def test_symbolic_model_is_refused_until_its_shape_is_fixed(workloads, name):
    model = onnx.load(workloads / "unit_ort" / f"{name}.onnx")
    with pytest.raises(ModelError, match=r"input 'A' has symbolic size 'unk_2' on axis 1: fix it with"):
        read(model, name)
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, 8, 16), strict=True):
        dim.dim_value = size
    assert_exact(read(model, name))


@pytest.mark.parametrize("path", NETWORKS)
def test_passes_keep_what_a_network_means(workloads, path):
    graph = read(workloads / path)
    changed = fuse_views(flatten_to_conv(graph))
    feeds = random_feeds(graph, 2, 23)
    before, after = reference.run(graph, feeds), reference.run(changed, feeds)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    parts = partition(changed, lambda op: None)
    assert sum(isinstance(part, ArrayPart) for part in parts) == 1


@pytest.mark.parametrize("path", NETWORKS)
def test_oracle_is_near_the_original(workloads, path, record_property):
    """The oracle graph comes from our own reader, so compare it with the file as ONNX Runtime runs it."""
    golden, key, _ = NETWORKS[path]
    graph = read(workloads / path)
    (name,), feed = graph.inputs, golden_feeds(workloads, graph, golden, key)
    oracle = oracle_session(write(graph))
    original = original_session(onnx.load(workloads / path))
    rows = np.split(feed[name], len(feed[name]) // graph.tensors[name].shape[0])
    ours = [np.concatenate(column) for column in zip(*(oracle.run(None, {name: row}) for row in rows), strict=True)]
    theirs = [np.concatenate(column) for column in zip(*(original.run(None, {name: row}) for row in rows), strict=True)]
    histograms = lsb_histogram(theirs, ours)
    record_property("lsb_histogram", str(histograms))
    print(path, histograms)
    for histogram in histograms:
        total = sum(histogram.values())
        near = sum(count for step, count in histogram.items() if abs(step) <= 4)
        assert near >= 0.97 * total, histogram


def test_missing_workloads_are_named(monkeypatch, tmp_path, request):
    from tests import conftest

    monkeypatch.setenv("HWQ_WORKLOADS", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="set HWQ_WORKLOADS"):
        conftest.workloads.__wrapped__()
