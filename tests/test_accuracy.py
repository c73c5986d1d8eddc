"""Every labelled sample: the same answer as ONNX Runtime's on integer operators, so the same accuracy."""

import numpy as np
import onnx
import pytest

from hwq import InferenceSession, reference
from hwq.compiler import load
from hwq.host import oracle_session, original_session
from hwq.onnx_writer import write
from tests.onnx_models import as_input

pytestmark = pytest.mark.system

IMAGES, KEYWORDS, PERSONS, DIGITS = "cifar10_raw_uint8", "kws01_mfcc_int8", "vww96_rgb_uint8", "mnist_uint8"
SAMPLES = {IMAGES: 250, KEYWORDS: 500, PERSONS: 300, DIGITS: 1000}


def signed(x):
    return (x.astype(np.int16) - 128).astype(np.int8)


def scaled(x):
    return x.astype(np.float32) / np.float32(255)


def cepstrum(x):
    return (x.astype(np.float32) - 83) * np.float32(0.58470291)


NETWORKS = {
    # path below the workloads: (samples, from a sample to the input, published accuracy)
    "models/mlperf_ic_resnet8/resnet.onnx": (IMAGES, np.float32, 0.880),
    "models/mlperf_ic_resnet8/mlperf_ic_resnet8.tf2onnx-op13.onnx": (IMAGES, signed, 0.880),
    "float/ic_resnet8.ortq_qdq_s8s8_perch.onnx": (IMAGES, np.float32, 0.864),
    "float/ic_resnet8.ortq_qop_u8s8_pert.onnx": (IMAGES, np.float32, 0.888),
    "float/ic_resnet8.ortq_qdq_u8s4w_perch.onnx": (IMAGES, np.float32, 0.516),
    "models/mlperf_kws_dscnn/kws_ref_model.onnx": (KEYWORDS, cepstrum, 0.906),
    "models/mlperf_kws_dscnn/mlperf_kws_dscnn.tf2onnx-op13.onnx": (KEYWORDS, np.int8, 0.910),
    "models/mlperf_vww_mbv1_025/mobilenet_v1.onnx": (PERSONS, scaled, 0.827),
    "models/mlperf_vww_mbv1_025/mlperf_vww_mbv1_025.tf2onnx-op13.onnx": (PERSONS, signed, 0.850),
    "float/vww_96.ortq_qdq_s8s8_perch.onnx": (PERSONS, scaled, 0.840),
    "float/vww_96.ortq_qop_u8s8_pert.onnx": (PERSONS, scaled, 0.827),
    "float/vww_96.ortq_qdq_u8s4w_perch.onnx": (PERSONS, scaled, 0.533),
    "models/emlearn_mnist_cnn/emlearn_mnist_cnn.tf2onnx-op13.onnx": (DIGITS, signed, 0.977),
    "models/tinymaix_mnist_valid/tinymaix_mnist_valid.tf2onnx-op13.onnx": (DIGITS, signed, 0.968),
    "models/tinymaix_mnist_dw/tinymaix_mnist_dw.tf2onnx-op13.onnx": (DIGITS, signed, 0.922),
}


def one_by_one(session, name, rows):
    return np.concatenate([session.run(None, {name: row[np.newaxis]})[0] for row in rows])


@pytest.mark.parametrize("path", NETWORKS)
def test_every_sample_gets_onnx_runtime_s_answer(workloads, path, record_property):
    data, prepare, published = NETWORKS[path]
    samples = np.load(workloads / "data" / f"{data}.npz")
    graph = load(workloads / path)
    (name,), (output,) = graph.inputs, graph.outputs
    rows = as_input(graph.tensors[name], prepare(samples["x"]))
    oracle = one_by_one(oracle_session(write(graph)), name, rows)
    assert len(oracle) == SAMPLES[data]
    array = InferenceSession(graph, arch="ecp5-8x16", target="machine").run([output], {name: rows})[0]
    for ours in (reference.run(graph, {name: rows})[output], array):
        np.testing.assert_array_equal(ours, oracle)
    answers = oracle.argmax(axis=1)
    accuracy = float(np.mean(answers == samples["y"]))
    original = one_by_one(original_session(onnx.load(workloads / path)), name, rows).argmax(axis=1)
    record_property("accuracy", accuracy)
    print(f"{path}: accuracy {accuracy:.4f} of {len(rows)}, ONNX Runtime {np.mean(original == samples['y']):.4f}")
    np.testing.assert_array_equal(original, answers)
    assert accuracy == pytest.approx(published, abs=0.005)
