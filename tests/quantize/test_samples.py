"""Calibration data: what is wrong with it is said in a sentence, and how it is batched has no influence."""

import numpy as np
import pytest

from hwq.errors import InputError
from hwq.quantize import Recipe, quantize
from hwq.quantize.prepare import prepare
from hwq.quantize.samples import Replay, feeds_of
from tests.quantize.networks import convnet, run, samples


@pytest.fixture(scope="module")
def ready():
    return prepare(convnet(), "net")


def bad(value, at):
    x = samples(3)
    x[at] = value
    return x


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the calibration data is empty: give at least one sample"),
        ({"x": samples(0)}, "the calibration data is empty: give at least one sample"),
        ({}, r"the calibration data has no input 'x' \(it has nothing\): name the array as the input"),
        ({"image": samples(1)}, r"has no input 'x' \(it has 'image'\)"),
        ({"x": samples(2)[:, :2]}, r"input 'x' has shape \(2, 2, 8, 8\): the model wants \('samples', 3, 8, 8\)"),
        ({"x": samples(2)[0]}, r"input 'x' has shape \(3, 8, 8\)"),
        ({"x": np.float32(1)}, r"input 'x' has shape \(\)"),
        ({"x": np.array(["a"])}, "input 'x' is of <U1: give numbers"),
        ({"x": bad(np.nan, (1, 0, 0, 0))}, "input 'x' holds NaN or infinity: give finite numbers"),
        ({"x": bad(-np.inf, (2, 1, 7, 7))}, "input 'x' holds NaN or infinity: give finite numbers"),
        ([{"x": samples(2)}, {}], "has no input 'x'"),
    ],
)
def test_bad_data_is_refused(ready, data, message):
    with pytest.raises(InputError, match=message):
        feeds_of(ready, data)


def test_integers_are_taken_as_numbers(ready):
    (feed,) = feeds_of(ready, {"x": np.full((1, 3, 8, 8), 200, np.uint8), "labels": np.arange(7)})
    assert feed["x"].dtype == np.float32
    assert feed["x"].max() == 200


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_batches_do_not_matter(method):
    from hwq.quantize.recipe import Method

    x = samples(6) * np.linspace(0.1, 3, 6, dtype=np.float32).reshape(-1, 1, 1, 1)  # unlike one another
    recipe = Recipe(weights="int4", method=Method(method))
    whole = quantize(convnet(), {"x": x}, recipe).SerializeToString(deterministic=True)
    made = quantize(convnet(), ({"x": batch} for batch in (x[:1], x[1:3], x[3:])), recipe)
    assert made.SerializeToString(deterministic=True) == whole


@pytest.mark.parametrize("kept", [1 << 30, 0])
def test_replay_gives_what_the_whole_model_gives(ready, monkeypatch, kept):
    monkeypatch.setattr("hwq.quantize.samples._KEPT_BYTES", kept)
    x = samples(3)
    replay = Replay(feeds_of(ready, {"x": x}))
    names = [node.output[0] for node in ready.graph.node]
    for name in [*names, names[2], "x"]:
        expected = x if name == "x" else run(ready, x, name)[0]
        np.testing.assert_array_equal(np.concatenate(replay.run(ready, name)), expected)
