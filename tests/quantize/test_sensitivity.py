"""Sensitivity: the planted layer is found first, and the numbers are what they say."""

import numpy as np
import pytest

from hwq.errors import InputError
from hwq.quantize import Recipe, sensitivity
from hwq.quantize.metrics import compare
from hwq.quantize.quantizer import MIXED_SHARE, mixed
from hwq.quantize.sensitivities import Sensitivity
from tests.onnx_models import Builder
from tests.quantize.networks import convnet, run, samples


def planted(at, layers=4):
    """Equal layers, but each row of one holds, beside what matters, a weight a hundred times as large for an input
    that is always 0.
    """
    rng, build = np.random.default_rng(0), Builder()
    x = build.input("x", (1, 8))
    for index in range(layers):
        weight = rng.normal(0, 1, (8, 8)).astype(np.float32) / 3
        weight[:, 0] = 0  # the first of the next layer's inputs
        if index == at:
            weight[0] = 30
        names = [x, build.constant(weight), build.constant(np.eye(8)[0] * -100, np.float32)]
        x = build.node("Relu", [build.node("Gemm", names, f"layer{index}")])
    return build.model(build.node("Gemm", [x, build.constant(np.eye(8), np.float32)], "last"))


def inputs(count=40):
    x = np.abs(np.random.default_rng(1).normal(0, 1, (count, 8))).astype(np.float32)
    x[:, 0] = 0
    return x


@pytest.mark.parametrize("at", range(4))
def test_planted_layer_is_found_first(at):
    recipe = Recipe(fit=False)  # which would find out that the weight doesn't count
    found = sensitivity(planted(at), {"x": inputs()}, recipe, weights=["int4"])
    assert found[0].layer.endswith(f"layer{at}")
    assert [entry.sqnr_db for entry in found] == sorted(entry.sqnr_db for entry in found)
    assert found[0].sqnr_db < found[1].sqnr_db - 3
    chosen = mixed(found)
    assert chosen[found[0].layer] == "int8"
    assert chosen[found[-1].layer] == "int4"


def test_every_layer_with_every_width():
    found = sensitivity(convnet(), {"x": samples(8)})
    assert len(found) == 8
    by_layer = {}
    for entry in found:
        by_layer.setdefault(entry.layer, {})[entry.weights] = entry
    assert len(by_layer) == 4
    for widths in by_layer.values():
        assert widths["int8"].sqnr_db > widths["int4"].sqnr_db
        assert widths["int8"].accuracy is None
        assert 0 <= widths["int8"].kl < widths["int4"].kl


def test_labels_give_an_accuracy():
    x = samples(8)
    labels = run(convnet(), x)[0].argmax(axis=1)
    found = sensitivity(convnet(), {"x": x}, labels=labels, weights=["int8"])
    assert {entry.accuracy for entry in found} <= {1.0, 0.875}
    found = sensitivity(convnet(), {"x": x}, labels=(labels + 1) % 5, weights=["int8"])
    assert {entry.accuracy for entry in found} <= {0.0, 0.125}


def test_numbers_are_what_they_say():
    wanted, got = np.array([[[3.0, 4.0]]]), np.array([[[3.0, 4.5]]])
    entry = compare([wanted], [got], np.array([1]))
    assert entry.sqnr_db == pytest.approx(10 * np.log10(25 / 0.25), abs=1e-9)
    p, q = np.exp([-1, 0]) / np.exp([-1, 0]).sum(), np.exp([-1.5, 0]) / np.exp([-1.5, 0]).sum()
    assert entry.kl == pytest.approx((p * np.log(p / q)).sum(), abs=1e-9)
    assert entry.accuracy == 1
    probabilities = compare([np.array([[[0.25, 0.75]]])], [np.array([[[0.5, 0.5]]])], None)
    assert probabilities.kl == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5), abs=1e-6)


def test_mixed_gives_int8_to_the_fewest_that_leave_little_noise():
    noise = [8, 4, 2, 1, 1]
    layers = [Sensitivity(str(i), "int4", -10 * np.log10(n), 0.0, None) for i, n in enumerate(noise)]
    assert MIXED_SHARE == 0.25
    assert list(mixed(layers).values()) == ["int8", "int8", "int4", "int4", "int4"]


def test_labels_of_another_number_are_refused():
    with pytest.raises(InputError, match=r"labels have shape \(3,\): give one a sample, 8"):
        sensitivity(convnet(), {"x": samples(8)}, labels=np.zeros(3))
