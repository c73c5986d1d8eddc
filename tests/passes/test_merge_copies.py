"""A convolution of copies reads its image once and computes the same."""

import numpy as np
import pytest

from hwq import reference
from hwq.compiler import compile, load, random_feeds, split
from hwq.config import PRESETS
from hwq.ir import Concat, Conv
from hwq.runtime import InferenceSession
from tests.onnx_models import Builder


def copies_model(*inputs):
    """Return a model of one convolution of several images, one after another."""
    rng = np.random.default_rng(len(inputs))
    b = Builder()
    images = {name: b.input(name, (1, 3, 6, 5), "int8") for name in sorted(set(inputs))}
    joined = b.node("Concat", [images[name] for name in inputs], axis=1)
    weight = b.constant(rng.integers(-128, 128, (4, 3 * len(inputs), 3, 3)).astype(np.int8))
    y = b.node(
        "QLinearConv", [joined, *b.params(0.5, 3), weight, *b.params(0.01, 0), *b.params(2.0, -4)], pads=[1, 1, 1, 1]
    )
    return b.model(y)


def kinds(model):
    return [type(op) for op in split(load(model), PRESETS["sim-4x4"])[0].ops]


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_are_read_once_and_the_result_is_the_same(copies):
    model = copies_model(*["x"] * copies)
    assert kinds(model) == [Conv]
    graph = load(model)
    feeds = random_feeds(graph, 3, seed=1)
    session = InferenceSession(compile(model, "sim-4x4"), target="machine")
    (expected,) = reference.run(graph, feeds).values()
    assert (session.run(None, feeds)[0] == expected).all()


def test_different_images_stay_joined():
    assert kinds(copies_model("x", "y")) == [Concat, Conv]
