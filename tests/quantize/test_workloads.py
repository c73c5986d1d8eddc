"""Third-party float networks: calibrated on each half of the samples, measured on the other."""

import functools

import numpy as np
import pytest

import hwq
from hwq.compiler import load
from hwq.config import load_arch
from hwq.host import oracle_session
from hwq.onnx_load import load_model
from hwq.onnx_reader import EDGE
from hwq.onnx_writer import write
from hwq.quantize import Recipe, quantize
from hwq.quantize.report import report

pytestmark = pytest.mark.system

NETWORKS = {
    # file: (samples, from a sample to the input, points of accuracy lost at most: int8, int4)
    "ic_resnet8_fp32": ("cifar10_raw_uint8", np.float32(1), {"int8": 0.8, "int4": 4.0}),
    "vww_96_fp32": ("vww96_rgb_uint8", np.float32(255), {"int8": 1.0, "int4": 5.0}),
}
HALVES = (0, 1)


@functools.lru_cache(maxsize=1)
def data(workloads, network):
    """Return inputs, labels and the float network's outputs."""
    file, divisor, _ = NETWORKS[network]
    with np.load(workloads / "data" / f"{file}.npz") as stored:
        x = np.ascontiguousarray(stored["x"].astype(np.float32).transpose(0, 3, 1, 2)) / divisor
        labels = stored["y"]
    return x, labels, answers(load_model(workloads / "float" / f"{network}.onnx"), x)


def answers(model, x):
    session = oracle_session(model)
    (name,) = [info.name for info in session.get_inputs()]
    return np.array([session.run(None, {name: row[np.newaxis]})[0].argmax() for row in x])


@functools.lru_cache(maxsize=2)
def quantized(workloads, network, weights, half):
    x, _, _ = data(workloads, network)
    return quantize(workloads / "float" / f"{network}.onnx", {"input_1": x[half::2]}, Recipe(weights=weights))


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("network", NETWORKS)
def test_accuracy_on_the_half_that_was_not_seen(workloads, network, weights, record_property):
    x, labels, in_floats = data(workloads, network)
    lost = []
    for half in HALVES:
        seen = np.arange(len(x)) % 2 == half
        graph = load(quantized(workloads, network, weights, half))
        right = answers(write(graph), x[~seen]) == labels[~seen]
        lost.append(100 * float(np.mean(in_floats[~seen] == labels[~seen]) - np.mean(right)))
    print(network, weights, "points lost:", lost)
    record_property("points_lost", str(lost))
    assert max(lost) <= NETWORKS[network][2][weights]


@pytest.mark.parametrize("network", NETWORKS)
def test_int4_runs_whole_on_the_array_and_every_rung_is_equal(workloads, network):
    made = quantized(workloads, network, "int4", HALVES[-1])
    result = report(made, load_arch("ecp5-8x16"))
    assert {node.op for node in result.host_nodes if node.reason != EDGE} == {"Softmax"}
    assert result.lattice_share >= 0.95
    assert {layer.bits for layer in result.layers if layer.weights} == {4}
    x, _, _ = data(workloads, network)
    targets = ["reference", "machine", "verilator"]
    checked = hwq.verify(made, "ecp5-8x16", inputs={"input_1": x[:1]}, targets=targets)
    assert checked.ok
    assert checked.cycles_measured == checked.cycles_predicted
