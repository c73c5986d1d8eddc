"""NF4 weights: a scale for each block of inputs, or for each output where the array takes no blocks."""

import numpy as np
import pytest
from onnx import numpy_helper

import hwq
from hwq.config import load_arch
from hwq.onnx_reader import EDGE
from hwq.quantize import Recipe, quantize
from hwq.quantize.report import report
from tests.onnx_models import Builder
from tests.quantize.networks import convnet, run, samples

CONFIG = load_arch("sim-4x4")
NF4 = {-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127}
"""Multiples of 1/127 next to bitsandbytes' levels."""

INPUTS = 150
LAYERS = {"Gemm": None, "MatMul": None, "pointwise": (1, 1), "column": (3, 1), "square": (3, 3)}


def network(kind, spread=1.0, seed=0):
    """One layer; the weights of its last inputs are `spread` times as large."""
    rng, build = np.random.default_rng(seed), Builder()
    kernel = LAYERS[kind]
    grow = np.where(np.arange(INPUTS) < 128, 1, spread)
    if kernel is None:
        weight, shape = rng.normal(0, 0.1, (INPUTS, 10)) * grow[:, np.newaxis], (1, INPUTS)
        y = build.node(kind, [build.input("x", shape), build.constant(weight, np.float32)])
    else:
        weight, shape = rng.normal(0, 0.1, (10, INPUTS, *kernel)) * grow.reshape(-1, 1, 1), (1, INPUTS, 6, 6)
        y = build.node("Conv", [build.input("x", shape), build.constant(weight, np.float32)])
    return build.model(y), rng.normal(0, 1, (24, *shape[1:])).astype(np.float32)


@pytest.mark.parametrize("kind", LAYERS)
def test_it_runs_on_the_array_and_every_rung_is_equal(kind):
    model, x = network(kind)
    made = quantize(model, {"x": x}, Recipe(weights="nf4"))
    result = report(made, CONFIG)
    assert [node.op for node in result.host_nodes if node.reason != EDGE] == []
    assert result.lattice_share == 1
    checked = hwq.verify(made, CONFIG, inputs={"x": x[:2]}, targets=["reference", "machine"])
    assert checked.ok
    assert [rung.mismatches for rung in checked.rungs] == [0, 0]
    assert sum(len(node.attribute) > 1 for node in made.graph.node if node.op_type == "DequantizeLinear") == (
        kind != "square"
    )
    (values,) = (v for v in map(numpy_helper.to_array, made.graph.initializer) if v.dtype == np.int8)
    assert set(np.unique(values).tolist()) <= NF4


@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "pointwise", "column"])
def test_blocks_keep_what_one_scale_loses(kind):
    """A block of weights a hundred times as large: with one scale an output, the others would be 0."""
    model, x = network(kind, spread=100.0)
    x[:, 128:] = 0
    made = quantize(model, {"x": x}, Recipe(weights="nf4", fit=False))
    (wanted,), (got,) = run(model, x), run(made, x)
    assert np.square(wanted - got).sum() < 0.05 * np.square(wanted).sum()


def test_weights_take_half_a_byte_and_a_scale_a_block():
    model, x = network("Gemm")
    costs = [
        hwq.estimate(quantize(model, {"x": x}, Recipe(weights=kind)), CONFIG, weights="codebook").layers[0].weight_bytes
        for kind in ("int8", "nf4")
    ]
    assert costs[1] < 0.7 * costs[0]


def test_networks_of_small_layers_are_exact_too():
    made = quantize(convnet(), {"x": samples(8)}, Recipe(weights="nf4"))
    checked = hwq.verify(made, CONFIG, inputs={"x": samples(2, seed=9)}, targets=["reference", "machine"])
    assert checked.ok
    assert report(made, CONFIG).lattice_share == 1


def test_layers_of_zeros_stay_zeros():
    build = Builder()
    y = build.node("Gemm", [build.input("x", (1, 200)), build.constant(np.zeros((200, 4)), np.float32)])
    made = quantize(build.model(y), {"x": np.ones((2, 200), np.float32)}, Recipe(weights="nf4"))
    assert not run(made, np.ones((1, 200), np.float32))[0].any()
