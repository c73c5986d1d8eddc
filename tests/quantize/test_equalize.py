"""Cross-layer equalization: the function stays, the ranges meet."""

import numpy as np
import pytest

from hwq.quantize.equalize import equalize
from hwq.quantize.network import analyse
from hwq.quantize.prepare import prepare
from hwq.quantize.samples import feeds_of
from tests.onnx_models import Builder
from tests.quantize.networks import run


def pair(second, activation="Relu", shared=False):
    """Two layers; the ratios of their ranges are powers of four, so that every number here is exact."""
    rng, build = np.random.default_rng(0), Builder()
    x = build.input("x", (1, 2, 5, 5))
    weight = rng.integers(-2, 3, (4, 2, 3, 3)).astype(np.float32)
    weight[:, 0, 0, 0] = 2
    weight *= np.float32([1, 4, 16, 2]).reshape(-1, 1, 1, 1)
    first = build.node("Conv", [x, build.constant(weight), build.constant([1, 2, 3, 4], np.float32)])
    middle = build.node(activation, [first])
    shape = {"dense": (3, 4, 3, 3), "depthwise": (4, 1, 3, 3)}[second]
    reader = rng.integers(-2, 3, shape).astype(np.float32)
    if second == "dense":
        reader[0, :, 0, 0] = 2
        reader *= np.float32([1, 1, 4, 2]).reshape(1, -1, 1, 1)
    else:
        reader[:, 0, 0, 0] = 2
        reader *= np.float32([1, 1, 4, 2]).reshape(-1, 1, 1, 1)
    last = build.node("Conv", [middle, build.constant(reader)], group=4 if second == "depthwise" else 1)
    outputs = [last, build.node("Neg", [middle])] if shared else [last]
    return prepare(build.model(*outputs), "net")


def feeds(model, seed=1):
    """Samples, whole numbers."""
    (info,) = model.graph.input
    shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
    return feeds_of(model, {"x": np.random.default_rng(seed).integers(-3, 4, (3, *shape[1:]))})


def ranges(model):
    first, second = analyse(model).layers.values()
    by_input = second.weight if second.groups > 1 else second.weight.swapaxes(0, 1)
    return np.abs(first.kernels).max(axis=1), np.abs(by_input.reshape(len(by_input), -1)).max(axis=1)


@pytest.mark.parametrize("second", ["dense", "depthwise"])
def test_ranges_meet_and_the_function_stays(second):
    model = pair(second)
    balanced = equalize(model, feeds(model))
    before, after = ranges(model), ranges(balanced)
    np.testing.assert_array_equal(after[0], after[1])
    np.testing.assert_array_equal(after[0] * after[1], before[0] * before[1])
    assert (before[0] != before[1]).any()
    x = np.concatenate([feed["x"] for feed in feeds(model)])
    np.testing.assert_array_equal(run(balanced, x)[0], run(model, x)[0])


@pytest.mark.parametrize("changes", [{"activation": "Tanh"}, {"shared": True}])
def test_what_is_not_homogeneous_or_has_other_readers_stays(changes):
    model = pair("dense", **changes)
    np.testing.assert_array_equal(ranges(equalize(model, feeds(model))), ranges(model))


def test_dead_channels_stay():
    rng, build = np.random.default_rng(2), Builder()
    x = build.input("x", (1, 3))
    weight = rng.normal(0, 1, (3, 4)).astype(np.float32)
    weight[:, 1] = 0
    hidden = build.node("Relu", [build.node("Gemm", [x, build.constant(weight)])])
    model = prepare(
        build.model(build.node("Gemm", [hidden, build.constant(rng.normal(0, 1, (4, 2)), np.float32)])), "net"
    )
    first, _ = analyse(equalize(model, feeds(model))).layers.values()
    assert np.isfinite(first.weight).all()
    assert (first.weight[1] == 0).all()


def test_no_channel_grows_beyond_the_largest():
    """The second channel's weights are tiny and its bias is large."""
    rng, build = np.random.default_rng(3), Builder()
    weight, bias = rng.normal(0, 1, (3, 4)).astype(np.float32), np.float32([0, 3, 0, 0])
    weight[:, 1] *= 1e-6
    names = [build.input("x", (1, 3)), build.constant(weight), build.constant(bias)]
    hidden = build.node("Relu", [build.node("Gemm", names)], "hidden")
    model = prepare(
        build.model(build.node("Gemm", [hidden, build.constant(rng.normal(0, 1, (4, 2)), np.float32)])), "net"
    )
    x = np.concatenate([feed["x"] for feed in feeds(model)])
    before, after = (run(each, x, "hidden")[0].max() for each in (model, equalize(model, feeds(model))))
    assert after <= before * (1 + 1e-6)
