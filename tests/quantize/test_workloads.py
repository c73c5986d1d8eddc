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
from hwq.quantize.search.mixed import Limits, search

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


def probabilities(model, x):
    session = oracle_session(model)
    (name,) = [info.name for info in session.get_inputs()]
    return np.concatenate([session.run(None, {name: row[np.newaxis]})[0] for row in x])


def answers(model, x):
    return probabilities(model, x).argmax(axis=1)


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


def divergence(wanted, got):
    p, q = np.maximum(wanted, 1e-6), np.maximum(got, 1e-6)
    return float((p * np.log(p / q)).sum(axis=1).mean())


@pytest.mark.slow
def test_mixed_precision_beats_four_bits_at_their_cycles(workloads):
    """Searched on one half of the samples, compared on the other: layers of few channels are as fast with 8 bits."""
    x, labels, _ = data(workloads, "ic_resnet8_fp32")
    model, seen = workloads / "float" / "ic_resnet8_fp32.onnx", np.arange(len(x)) % 2 == 0
    uniform = quantized(workloads, "ic_resnet8_fp32", "int4", 0)
    limits = Limits(max_cycles=hwq.estimate(uniform, "ecp5-8x16").cycles_predicted)
    found = search(model, {"input_1": x[seen]}, "ecp5-8x16", limits=limits, points=2)
    mixed = quantize(model, {"input_1": x[seen]}, Recipe(weights=found.weights))
    assert hwq.estimate(mixed, "ecp5-8x16").cycles_predicted == found.chosen.cycles <= limits.max_cycles
    wanted = probabilities(load_model(model), x[~seen])
    got = [probabilities(write(load(made)), x[~seen]) for made in (mixed, uniform)]
    lost = [divergence(wanted, values) for values in got]
    right = [int((values.argmax(axis=1) == labels[~seen]).sum()) for values in got]
    print("divergence:", lost, "right:", right, "of", len(wanted))
    assert lost[0] < 0.8 * lost[1]
    assert right[0] >= right[1]
