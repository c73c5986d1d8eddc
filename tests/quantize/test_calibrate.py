"""Ranges: each method against what it promises on the raw values."""

import numpy as np
import pytest

from hwq.quantize.calibrate import BINS, Histogram, choose, measure
from hwq.quantize.prepare import prepare
from hwq.quantize.recipe import Method
from hwq.quantize.samples import feeds_of
from tests.onnx_models import Builder
from tests.quantize.networks import samples


def histogram_of(values):
    """What `measure` counts of a network that passes its input on."""
    build = Builder()
    x = build.input("x", (1, values.shape[1]))
    model = prepare(build.model(build.node("Relu", [x])), "net")
    return measure(model, feeds_of(model, {"x": values}), ["x"])["x"]


def heavy_tailed(seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (20, 1000)).astype(np.float32)
    values[3, 7] = 40
    return values


def quantized_error(values, low, high):
    """Mean square error of 256 levels, the zero among them."""
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return float(np.mean(((np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step - values) ** 2))


def test_histogram_counts_every_value():
    values = heavy_tailed()
    histogram = histogram_of(values)
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    bins = np.floor((values.astype(np.float64) + values.max()) / (2 * values.max()) * BINS).astype(int)
    expected = np.bincount(np.minimum(bins, BINS - 1).reshape(-1), minlength=BINS)
    assert histogram.counts.sum() == values.size
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 1  # a value on an edge


def test_minmax_is_the_least_and_the_greatest():
    values = heavy_tailed()
    assert choose(histogram_of(values), Method.minmax) == (values.min(), values.max())


def test_ranges_hold_zero():
    assert choose(histogram_of(np.abs(heavy_tailed()) + 1), Method.minmax)[0] == 0
    assert choose(histogram_of(-np.abs(heavy_tailed()) - 1), Method.minmax)[1] == 0


@pytest.mark.parametrize("percentile", [99.0, 99.9])
def test_percentile_covers_its_share(percentile):
    values = heavy_tailed()
    low, high = choose(histogram_of(values), Method.percentile, percentile)
    width = 2 * values.max() / BINS
    tail = (100 - percentile) / 2
    assert abs(high - np.percentile(values, 100 - tail)) <= 2 * width
    assert abs(low - np.percentile(values, tail)) <= 2 * width


def test_entropy_leaves_out_an_outlier():
    values = heavy_tailed()
    low, high = choose(histogram_of(values), Method.entropy)
    assert 2 < high < 20
    assert quantized_error(values[:3], low, high) < 0.3 * quantized_error(values[:3], values.min(), values.max())


def test_mse_has_the_least_error_of_all_parts_of_the_range():
    values = np.random.default_rng(1).normal(0, 1, (20, 10000)).astype(np.float32)
    values[0, 0] = 9
    low, high = choose(histogram_of(values), Method.mse)
    shares = np.linspace(0.3, 1, 71)
    errors = [quantized_error(values, share * values.min(), share * values.max()) for share in shares]
    assert quantized_error(values, low, high) < 1.05 * min(errors)
    assert quantized_error(values, low, high) < 0.9 * errors[-1]


def test_nothing_but_zeros():
    for method in Method:
        assert choose(histogram_of(np.zeros((2, 4))), method) == (0, 0)


def test_samples_are_counted_one_by_one():
    x = samples(4).reshape(4, -1)
    assert isinstance(histogram_of(x), Histogram)
    np.testing.assert_array_equal(histogram_of(x).counts, histogram_of(x[::-1]).counts)
