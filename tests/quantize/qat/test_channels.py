"""Pruned networks compute what the whole ones do with those channels silenced, in fewer cycles."""

import numpy as np
import onnx
import pytest

import hwq
from hwq.errors import HwqError
from hwq.quantize import Recipe, quantize
from hwq.quantize.qat import prune_channels
from tests.onnx_models import Builder
from tests.quantize.networks import run


def network(seed=0):
    """Whole numbers throughout, so that float sums are exact in any order."""
    rng, build = np.random.default_rng(seed), Builder()

    def weight(name, *shape):
        return build.constant(rng.integers(-3, 4, shape) * np.where(rng.random(shape) < 0.1, 4, 1), np.float32, name)

    x = build.input("x", (1, 3, 8, 8))
    x = build.node("Conv", [x, weight("w0", 8, 3, 3, 3), weight("b0", 8)], pads=[1] * 4)
    statistics = {"gamma": (1, 3), "beta": (-9, 9), "mean": (-3, 3), "variance": (1, 2)}
    norm = [build.constant(rng.integers(*ends, 8), np.float32, name) for name, ends in statistics.items()]
    x = build.node("Relu", [build.node("BatchNormalization", [x, *norm], epsilon=0.0)])
    x = build.node("Relu", [build.node("Conv", [x, weight("w1", 8, 1, 3, 3), weight("b1", 8)], group=8)])
    x = build.node("Conv", [x, weight("w2", 12, 8, 1, 1), weight("b2", 12)])
    x = build.node("Flatten", [build.node("MaxPool", [build.node("Relu", [x])], kernel_shape=[3, 3], strides=[3, 3])])
    x = build.node("Relu", [build.node("Gemm", [x, weight("w3", 12 * 4, 10), weight("b3", 10)])])
    return build.model(build.node("Gemm", [x, weight("w4", 5, 10)], transB=1), types={"gemm_9": ("float32", (1, 5))})


def arrays(model):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def silenced(model, share):
    """Set the smallest channels of each layer to 0 instead, whatever makes them."""
    values = arrays(model)
    sizes = {
        "0": np.abs(values["w0"]).sum((1, 2, 3)) * values["gamma"],
        "2": np.abs(values["w2"]).sum((1, 2, 3)),
        "3": np.abs(values["w3"]).sum(0),
    }
    makers = {"0": ["w0", "b0", "gamma", "beta", "w1", "b1"], "2": ["w2", "b2"], "3": ["b3"]}
    changed = {name: value.copy() for name, value in values.items()}
    for layer, size in sizes.items():
        keep = int(np.ceil(len(size) * (1 - share)))
        dropped = sorted(range(len(size)), key=lambda channel: (-size[channel], channel))[keep:]
        for name in makers[layer]:
            changed[name][dropped] = 0
        if layer == "3":
            changed["w3"][:, dropped] = 0
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(changed[tensor.name], tensor.name))
    return made


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
def test_it_computes_what_the_whole_network_does_without_those_channels(share):
    x = np.random.default_rng(1).integers(-3, 4, (4, 3, 8, 8)).astype(np.float32)
    model = network()
    (whole,), (pruned,) = run(silenced(model, share), x), run(prune_channels(model, share), x)
    assert np.abs(whole).max() > 100
    np.testing.assert_array_equal(pruned, whole)


def test_shapes_and_cycles():
    pruned = prune_channels(network(), 0.5)
    shapes = {name: value.shape for name, value in arrays(pruned).items()}
    assert shapes == {
        "w0": (4, 3, 3, 3), "b0": (4,), "gamma": (4,), "beta": (4,), "mean": (4,), "variance": (4,),
        "w1": (4, 1, 3, 3), "b1": (4,), "w2": (6, 4, 1, 1), "b2": (6,), "w3": (24, 5), "b3": (5,), "w4": (5, 5),
    }  # fmt: skip
    data = {"x": np.random.default_rng(1).normal(size=(4, 3, 8, 8))}
    cycles = [
        hwq.estimate(quantize(model, data, Recipe(weights="int4")), "sim-4x4").cycles_predicted
        for model in (network(), pruned)
    ]
    assert cycles[1] < 0.7 * cycles[0]


def test_channels_are_kept_in_multiples():
    pruned = prune_channels(network(), 0.7, multiple=4)
    assert [arrays(pruned)[f"w{layer}"].shape[0] for layer in (0, 2)] == [4, 4]


def test_what_another_node_reads_stays_whole():
    build, rng = Builder(), np.random.default_rng(0)
    x = build.input("x", (1, 3, 8, 8))
    first = build.node("Conv", [x, build.constant(rng.normal(size=(8, 3, 1, 1)), np.float32)])
    second = build.node("Conv", [first, build.constant(rng.normal(size=(8, 8, 1, 1)), np.float32)])
    model = build.model(build.node("Add", [first, second]))
    assert arrays(prune_channels(model, 0.5)).keys() == arrays(model).keys()
    assert all(
        np.array_equal(a, b)
        for a, b in zip(arrays(prune_channels(model, 0.5)).values(), arrays(model).values(), strict=True)
    )


def test_bad_shares_are_refused():
    with pytest.raises(
        HwqError, match=r"channels can't be pruned by 1 to multiples of 1: take a share from 0 to below 1"
    ):
        prune_channels(network(), 1)
