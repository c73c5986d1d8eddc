"""From a float model to integers on the array: what is written, what it computes, and what each technique is worth."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

import hwq
from hwq.compiler import load
from hwq.config import load_arch
from hwq.errors import HwqError, ModelError
from hwq.host import oracle_session, original_session
from hwq.onnx_reader import EDGE
from hwq.onnx_writer import write
from hwq.quantize import Recipe, quantize, rounding
from hwq.quantize.recipe import Method
from hwq.quantize.report import report
from tests.onnx_models import Builder, assert_exact
from tests.quantize.networks import convnet, run, samples

CONFIG = load_arch("sim-4x4")


def on_host(model):
    """The operators that the array doesn't run, other than conversions at its edges."""
    return sorted(node.op for node in report(model, CONFIG).host_nodes if node.reason != EDGE)


def noise(model, quantized, x):
    """Mean square error of the outputs in the oracle graph."""
    (wanted,), session = run(model, x), oracle_session(write(load(quantized)))
    (name,) = [info.name for info in session.get_inputs()]
    got = np.concatenate([session.run(None, {name: row[np.newaxis]})[0] for row in x])
    return float(np.square(got - wanted).mean())


@pytest.mark.parametrize("weights", ["int8", "int4", "mixed"])
def test_everything_lands_on_the_array_and_verifies(weights):
    made = quantize(convnet(), {"x": samples(16)}, Recipe(weights=weights))
    assert on_host(made) == ["Softmax"]
    x = samples(2, seed=9)
    checked = hwq.verify(made, "sim-4x4", inputs={"x": x}, targets=["reference", "machine"])
    assert checked.ok
    assert [rung.mismatches for rung in checked.rungs] == [0, 0]
    result = report(made, CONFIG)
    assert result.lattice_share == 1
    bits = {layer.bits for layer in result.layers if layer.weights}
    assert bits == {"int8": {8}, "int4": {4}, "mixed": {4, 8}}[weights]


@pytest.mark.parametrize("method", Method)
def test_activations_of_4_bits_between_layers(method):
    made = quantize(convnet(), {"x": samples(16)}, Recipe(weights="int4", activations="uint4", method=method))
    kinds = {entry.name: (entry.data_type, onnx.numpy_helper.to_array(entry)) for entry in made.graph.initializer}
    zeros = {n.output[0]: kinds[n.input[2]] for n in made.graph.node if n.op_type == "QuantizeLinear"}
    wide = [name for name, (kind, _) in zeros.items() if kind == onnx.TensorProto.UINT8]
    assert wide == ["x_quantized", "gemm_10_quantized"]  # what the host writes, and what Softmax reads there
    assert all(int(zero) % 2 == 0 for _, zero in zeros.values())
    assert on_host(made) == ["Softmax"]
    assert report(made, CONFIG).lattice_share == 1
    checked = hwq.verify(made, "ecp5-8x16", inputs={"x": samples(2, seed=9)}, targets=["reference", "machine"])
    assert [rung.mismatches for rung in checked.rungs] == [0, 0]
    power = np.square(run(convnet(), samples(32, seed=5))[0]).mean()
    assert noise(convnet(), made, samples(32, seed=5)) < 0.1 * power


def test_file_is_what_older_runtimes_read():
    made = quantize(convnet(), {"x": samples(8)}, Recipe(weights="int4"))
    onnx.checker.check_model(made, full_check=True)
    assert made.ir_version <= 10
    assert next(entry.version for entry in made.opset_import if not entry.domain) >= 21
    kinds = [tensor.data_type for tensor in made.graph.initializer]
    assert kinds.count(onnx.TensorProto.INT4) == kinds.count(onnx.TensorProto.INT32) == 4
    zeros = {name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer if "zero_point" in (name := t.name)}
    assert zeros
    assert all(zero.dtype == np.uint8 and zero % 2 == 0 for zero in zeros.values())
    assert "Relu" not in {node.op_type for node in made.graph.node}  # saturation does it


def test_onnx_runtime_s_own_fusions_agree():
    """The file as a user would run it, optimised: nearly all outputs of Softmax are those of the integers."""
    made, x = quantize(convnet(), {"x": samples(16)}), samples(16, seed=3)
    session = original_session(made)
    theirs = np.concatenate([session.run(None, {"x": row[np.newaxis]})[0] for row in x])
    (float_outputs,) = run(convnet(), x)
    assert np.abs(theirs - float_outputs).max() < 0.05
    assert (theirs.argmax(axis=1) == float_outputs.argmax(axis=1)).mean() > 0.9


@pytest.mark.parametrize(
    ("recipe", "without", "gain"),
    [
        ({"weights": "int4"}, {"fit": False}, 1.5),
        ({"weights": "int4", "fit": False}, {"correct_bias": False}, 1.5),
        ({"weights": "int8"}, {"weights": "int4"}, 3),
        ({"weights": "mixed"}, {"weights": "int4"}, 1.5),
    ],
)
def test_each_technique_lowers_the_noise(recipe, without, gain):
    x, totals = samples(32), [0.0, 0.0]
    for seed in range(3):
        model = convnet(seed)
        for index, chosen in enumerate((recipe, recipe | without)):
            totals[index] += noise(model, quantize(model, {"x": x}, Recipe(**chosen)), samples(32, seed=5))
    assert totals[1] > gain * totals[0]


def test_layers_make_up_for_the_layers_before_them(monkeypatch):
    x, totals = samples(64), []
    for changed in (False, True):
        if changed:
            monkeypatch.setattr(rounding, "refit", lambda weight, known: weight)
        made = [quantize(convnet(seed), {"x": x}, Recipe(weights="int4")) for seed in range(3)]
        totals.append(sum(noise(convnet(seed), made[seed], samples(64, seed=5)) for seed in range(3)))
    assert totals[1] > 1.2 * totals[0]


def test_equalization_helps_where_the_ranges_of_channels_are_far_apart():
    """A depthwise layer reads channels whose ranges differ by a factor of hundred: 8 bits of a tensor hold few."""
    rng, build = np.random.default_rng(0), Builder()
    x = build.input("x", (1, 3, 8, 8))
    spread = np.geomspace(1, 100, 8).astype(np.float32).reshape(-1, 1, 1, 1)
    first = rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32) * spread
    second = rng.normal(0, 0.3, (8, 1, 3, 3)).astype(np.float32) / spread
    hidden = build.node("Relu", [build.node("Conv", [x, build.constant(first)])])
    model = build.model(build.node("Conv", [hidden, build.constant(second)], group=8))
    plain, balanced = (
        noise(model, quantize(model, {"x": samples(8)}, Recipe(equalize=equalize)), samples(8, seed=5))
        for equalize in (False, True)
    )
    assert plain > 5 * balanced


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_bias_correction_brings_every_channel_s_mean_back(op):
    rng, build = np.random.default_rng(0), Builder()
    weight, x = rng.normal(0, 1, (12, 6)).astype(np.float32), rng.uniform(0, 1, (40, 12)).astype(np.float32)
    model = build.model(build.node(op, [build.input("x", (1, 12)), build.constant(weight)]))
    drift = []
    for correct in (True, False):
        made = quantize(model, {"x": x}, Recipe(weights="int4", fit=False, correct_bias=correct))
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
        (values,) = (value for value in stored.values() if value.ndim == 2)
        values = values if op == "MatMul" else values.T
        (bias,) = (value for value in stored.values() if value.dtype == np.int32)
        (scale,) = (value for name, value in stored.items() if name.endswith("weight_scale"))
        step = stored["x_scale"].astype(np.float64)
        seen = np.clip(np.rint(x / stored["x_scale"]), 0, 255) * step
        sums = seen @ (values.astype(np.float64) * scale) + bias * (step * scale)
        drift.append(np.abs(sums.mean(axis=0) - (x.astype(np.float64) @ weight).mean(axis=0)) / (step * scale))
    assert (drift[0] < 0.51).all()  # half a step of the bias
    assert (drift[1] > 2).any()


def test_the_same_bytes_whatever_the_hash_seed():
    code = (
        "import hashlib; from hwq.quantize import Recipe, quantize; from tests.quantize.networks import *;"
        "made = quantize(convnet(), {'x': samples(4)}, Recipe(weights='mixed', equalize=True));"
        "print(hashlib.sha256(made.SerializeToString(deterministic=True)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


# Operators


def layered(build, x, channels=3):
    rng = np.random.default_rng(7)
    weight = rng.normal(0, 0.3, (4, channels, 3, 3))
    return build.node("Conv", [x, build.constant(weight, np.float32)], pads=[1, 1, 1, 1])


OPERATORS = {
    "clip": lambda b, x: b.node("Clip", [layered(b, x), b.constant(0, np.float32), b.constant(0.5, np.float32)]),
    "signed clip": lambda b, x: b.node(
        "Clip", [layered(b, x), b.constant(-0.5, np.float32), b.constant(1, np.float32)]
    ),
    "lone relu": lambda b, x: b.node("Relu", [b.node("MaxPool", [layered(b, x)], kernel_shape=[2, 2])]),
    "max pool": lambda b, x: b.node("MaxPool", [layered(b, x)], kernel_shape=[2, 2], strides=[2, 2]),
    "average": lambda b, x: b.node("AveragePool", [layered(b, x)], kernel_shape=[3, 3], strides=[2, 2]),
    "global average": lambda b, x: b.node("GlobalAveragePool", [b.node("Relu", [layered(b, x)])]),
    "sigmoid": lambda b, x: b.node("Sigmoid", [layered(b, x)]),
    "hard swish": lambda b, x: b.node("HardSwish", [layered(b, x)]),
    "swish": lambda b, x: b.node("Mul", [y := layered(b, x), b.node("Sigmoid", [y])]),
    "concat": lambda b, x: b.node("Concat", [layered(b, x), b.node("Relu", [layered(b, x)])], axis=1),
    "difference": lambda b, x: b.node("Sub", [layered(b, x), b.node("Relu", [layered(b, x)])]),
    "resize": lambda b, x: b.node(
        "Resize", [layered(b, x), "", b.constant([1, 1, 2, 2], np.float32)], mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    ),
    "transposed": lambda b, x: b.node(
        "ConvTranspose", [layered(b, x), b.constant(np.random.default_rng(8).normal(0, 1, (4, 5, 2, 2)), np.float32)],
        strides=[2, 2],
    ),
    "product": lambda b, x: b.node(
        "MatMul", [layered(b, x), b.constant(np.random.default_rng(8).normal(0, 1, (8, 5)), np.float32)]
    ),
    "rows": lambda b, x: b.node(
        "Add",
        [
            b.node(
                "MatMul",
                [
                    b.node("Reshape", [layered(b, x), b.constant([1, 4, 64], np.int64)]),
                    b.constant(np.random.default_rng(8).normal(0, 1, (64, 5)), np.float32),
                ],
            ),
            b.constant(np.arange(5), np.float32),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_operator_lands_on_the_array(name, weights):
    build = Builder()
    model = build.model(OPERATORS[name](build, build.input("x", (1, 3, 8, 8))), opset=18)
    made = quantize(model, {"x": samples(8)}, Recipe(weights=weights))
    graph = load(made)
    assert on_host(made) == (["Gemm"] if name == "product" else [])
    assert_exact(graph)
    power = np.square(run(model, samples(8))[0]).mean()
    assert noise(model, made, samples(8)) < power * {"int8": 1e-3, "int4": 3e-2}[weights]


def test_a_standalone_float_operator_stays_between_quantized_ones():
    build = Builder()
    x = build.input("x", (1, 3, 8, 8))
    hidden = build.node("Softmax", [layered(build, x)], axis=1)
    model = build.model(layered(build, hidden, 4))
    made = quantize(model, {"x": samples(4)})
    assert on_host(made) == ["Softmax"]
    assert_exact(load(made))


def test_codebooks_have_sixteen_entries_and_lose_less_than_int4():
    made = [quantize(convnet(), {"x": samples(32)}, Recipe(weights=kind)) for kind in ("codebook", "int4")]
    weights = [onnx.numpy_helper.to_array(entry) for entry in made[0].graph.initializer if entry.data_type == 3]
    assert [len(np.unique(weight)) for weight in weights] == [16] * 4
    assert hwq.verify(made[0], "sim-4x4", inputs={"x": samples(1)}, targets=["reference", "machine"]).ok
    assert noise(convnet(), made[0], samples(32, seed=5)) < noise(convnet(), made[1], samples(32, seed=5))


def test_kept_layers_compute_in_floats():
    depthwise = [node.output[0] for node in convnet().graph.node if node.op_type == "Conv"][1]
    made = quantize(convnet(), {"x": samples(8)}, Recipe(keep_float=(depthwise,)))
    assert on_host(made) == ["Conv", "Softmax"]
    weights = [
        tensor for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims
    ]
    assert any(list(tensor.dims) == [8, 1, 3, 3] for tensor in weights)


def test_chosen_layers_have_chosen_weights():
    names = [node.output[0] for node in convnet().graph.node if node.op_type == "Conv"]
    prepared = quantize(convnet(), {"x": samples(4)})
    layers = [node.name for node in prepared.graph.node if node.op_type in ("Conv", "Gemm")]
    made = quantize(convnet(), {"x": samples(4)}, Recipe(weights={layers[1]: "int4"}))
    assert [layer.bits for layer in report(made, CONFIG).layers if layer.weights] == [8, 4, 8, 8]
    assert len(names) == 3


# Refusals


def test_bad_recipes_are_refused():
    with pytest.raises(HwqError, match="weights can't be 'int2': choose from int8, int4, codebook, nf4, mixed"):
        Recipe(weights="int2")
    with pytest.raises(HwqError, match="weights can't be 'mixed': choose from int8, int4, codebook"):
        Recipe(weights={"conv": "mixed"})
    with pytest.raises(HwqError, match="activations can't be 'int8': choose from uint8, uint4"):
        Recipe(activations="int8")
    with pytest.raises(HwqError, match=r"percentile 20 isn't from 50 to 100"):
        Recipe(method=Method.percentile, percentile=20)
    with pytest.raises(ModelError, match="there is no layer 'nothing' to keep in floats"):
        quantize(convnet(), {"x": samples(2)}, Recipe(keep_float=("nothing",)))
    with pytest.raises(ModelError, match="there is no layer 'nothing' whose weights could be chosen"):
        quantize(convnet(), {"x": samples(2)}, Recipe(weights={"nothing": "int4"}))


def test_a_model_without_layers_is_refused():
    build = Builder()
    model = build.model(build.node("Relu", [build.input("x", (1, 4))]))
    with pytest.raises(ModelError, match="holds no layer with constant weights, so there is nothing to quantize"):
        quantize(model, {"x": np.ones((2, 4))})


def test_names_that_clash_are_refused():
    build = Builder()
    x = layered(build, build.input("x", (1, 3, 8, 8)))
    with pytest.raises(ModelError, match="'x_quantized' is the name of a tensor already: rename it"):
        quantize(build.model(build.node("Softmax", [x], "x_quantized")), {"x": samples(2)})
