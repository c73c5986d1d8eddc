"""Weights to integers, against brute force on layers small enough to enumerate."""

from itertools import product

import numpy as np
import pytest

from hwq.quantize import rounding
from hwq.quantize.network import analyse
from hwq.quantize.prepare import prepare
from hwq.quantize.statistics import Moments, moments
from tests.onnx_models import Builder

INT4 = rounding.levels(4)


def correlated(rng, groups, length):
    """Covariances of inputs that have much to do with one another."""
    x = rng.normal(0, 1, (groups, length, 50)) + 2 * rng.normal(0, 1, (groups, 1, 50))
    return x @ x.swapaxes(1, 2) / 50


def error(values, scale, weight, covariance):
    change = values * scale[..., np.newaxis] - weight
    return np.einsum("grk,gkl,grl->gr", change, covariance, change)


def test_nearest_rounds_ties_to_even_and_clamps():
    values = rounding.nearest(np.array([[0.5, 1.5, -0.5, 100, -100, 7.4]]), np.array([1.0]), INT4)
    np.testing.assert_array_equal(values, [[0, 2, 0, 7, -8, 7]])
    np.testing.assert_array_equal(rounding.levels(8), np.arange(-127, 128))


def test_a_book_s_entries_are_all_there_is():
    rng, book = np.random.default_rng(7), np.array([-100, -30, -4, 0, 7, 90])
    values = rng.uniform(-130, 130, 200)
    best = book[np.abs(values[:, np.newaxis] - book).argmin(axis=1)]
    np.testing.assert_array_equal(rounding.rounded(values, book), best)
    weight, scale, covariance = rng.normal(0, 40, (1, 3, 6)), np.ones((1, 3)), correlated(rng, 1, 6)
    got = rounding.fitted(weight, scale, book, covariance)
    assert np.isin(got, book).all()
    plain = rounding.nearest(weight, scale, book)
    assert error(got, scale, weight, covariance).sum() < 0.8 * error(plain, scale, weight, covariance).sum()


def test_plain_scales_clamp_nothing():
    weight = np.array([[1.0, -14.0], [0.0, 0.0]])
    np.testing.assert_array_equal(rounding.plain_scales(weight, 4), [2.0, 0.0])


def test_fitted_is_near_the_best_of_all_choices():
    rng = np.random.default_rng(0)
    weight, scale = rng.normal(0, 2, (1, 20, 6)), np.ones((1, 20))
    covariance = correlated(rng, 1, 6)
    floor = np.floor(weight)
    choices = [np.clip(floor + np.array(ups), -8, 7) for ups in product((0, 1), repeat=6)]
    best = np.min([error(choice, scale, weight, covariance) for choice in choices], axis=0)
    plain = error(rounding.nearest(weight, scale, INT4), scale, weight, covariance)
    got = error(rounding.fitted(weight, scale, INT4, covariance), scale, weight, covariance)
    assert got.sum() < 1.2 * best.sum()
    assert got.sum() < 0.4 * plain.sum()


def test_no_single_change_of_a_fitted_weight_is_better():
    rng = np.random.default_rng(1)
    weight, scale = rng.normal(0, 2, (3, 4, 8)), rng.uniform(0.4, 0.8, (3, 4))
    covariance = correlated(rng, 3, 8)
    values = rounding.fitted(weight, scale, INT4, covariance)
    assert values.min() >= -8
    assert values.max() <= 7
    damped = rounding.damped(covariance)
    reached = error(values, scale, weight, damped)
    for k, step in product(range(8), (-1, 1)):
        other = values.copy()
        other[..., k] = np.clip(other[..., k] + step, -8, 7)
        assert (error(other, scale, weight, damped) >= reached - 1e-9).all()


def test_the_first_pass_alone_is_gptq(monkeypatch):
    """Against the textbook's loop: weights not yet rounded are refitted exactly after each."""
    rng = np.random.default_rng(2)
    weight, covariance = rng.normal(0, 2, (1, 1, 6)), correlated(rng, 1, 6)
    monkeypatch.setattr(rounding, "_SWEEPS", 0)
    (got,) = rounding.fitted(weight, np.ones((1, 1)), INT4, covariance)[0]
    (matrix,) = rounding.damped(covariance)
    rest, chosen = weight[0, 0].copy(), []
    for k in range(6):
        chosen.append(np.clip(np.rint(rest[k]), -8, 7))
        change = rest[k] - chosen[-1]
        if k < 5:  # the later weights that make up best for the change
            rest[k + 1 :] += np.linalg.solve(matrix[k + 1 :, k + 1 :], matrix[k + 1 :, k] * change)
    np.testing.assert_array_equal(got, chosen)


def test_best_scales_clip_an_outlier_that_hardly_counts():
    rng = np.random.default_rng(3)
    weight = rng.uniform(-1, 1, (1, 4, 9))
    weight[..., 0] = 2.2
    covariance = np.eye(9)[np.newaxis].copy()
    covariance[0, 0, 0] = 1e-4
    scales = rounding.best_scales(weight, 4, covariance)
    plain = rounding.plain_scales(weight, 4)
    errors = [error(rounding.nearest(weight, s, INT4), s, weight, covariance).sum() for s in (scales, plain)]
    assert errors[0] < 0.5 * errors[1]
    np.testing.assert_array_equal(rounding.best_scales(weight * 0, 4, covariance), np.zeros((1, 4)))


def test_refit_makes_up_for_inputs_that_changed():
    """The layer reads less than it should: the weights grow."""
    rng = np.random.default_rng(4)
    weight = rng.normal(0, 1, (1, 3, 4))
    x = rng.normal(0, 1, (4, 4000))
    seen = np.diag([0.5, 0.8, 1.0, 1.0]) @ x
    wanted = weight[0] @ x
    known = Moments(seen.mean(1)[None], wanted.mean(1), np.cov(seen, bias=True)[None], None)
    cross = (wanted - wanted.mean(1, keepdims=True)) @ (seen - seen.mean(1, keepdims=True)).T / 4000
    known = Moments(known.x, known.y, known.xx, cross[None])
    refitted = rounding.refit(weight, known)
    np.testing.assert_allclose(refitted[0], weight[0] @ np.diag([2, 1.25, 1, 1]), rtol=0.1)
    assert np.square(refitted[0] @ seen - wanted).mean() < 0.05 * np.square(weight[0] @ seen - wanted).mean()


def test_inputs_that_never_vary_leave_the_weights_as_they_are():
    weight = np.random.default_rng(6).normal(0, 2, (2, 3, 4))
    known = Moments(np.ones((2, 4)), np.ones(6), np.zeros((2, 4, 4)), np.zeros((2, 3, 4)))
    np.testing.assert_array_equal(rounding.refit(weight, known), weight)
    scale = rounding.best_scales(weight, 4, known.xx)
    np.testing.assert_array_equal(rounding.fitted(weight, scale, INT4, known.xx), rounding.nearest(weight, scale, INT4))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 2])
def test_moments_of_a_convolution(groups, rank):
    """Against a loop over windows; whole numbers and a power of two of positions, so that nothing is rounded."""
    rng, build = np.random.default_rng(5), Builder()
    space = (8, 8)[:rank]
    kernel = (3, 3)[:rank]
    x = build.input("x", (1, 4, *space))
    weight = build.constant(rng.integers(-2, 3, (6, 4 // groups, *kernel)), np.float32)
    attributes = {"group": groups, "strides": [2] * rank, "pads": [1] * (2 * rank)}
    model = prepare(build.model(build.node("Conv", [x, weight], **attributes)), "net")
    (layer,) = analyse(model).layers.values()
    inputs = [rng.integers(-3, 4, (1, 4, *space)).astype(np.float32) for _ in range(4)]
    wanted = [rng.integers(-3, 4, (1, 6, *(4,) * rank)).astype(np.float32) for _ in range(4)]
    known = moments(layer, zip(inputs, wanted, strict=True))
    rows, sums = [], []
    for image, result in zip(inputs, wanted, strict=True):
        padded = np.pad(image[0], [(0, 0)] + [(1, 1)] * rank)
        for at in product(range(4), repeat=rank):
            window = tuple(slice(2 * i, 2 * i + 3) for i in at)
            rows.append(padded[(slice(None), *window)].reshape(groups, -1))
            sums.append(result[(0, slice(None), *at)])
    seen, made = np.array(rows, np.float64), np.array(sums, np.float64)
    np.testing.assert_array_equal(known.x, seen.mean(axis=0))
    np.testing.assert_array_equal(known.y, made.mean(axis=0))
    for group in range(groups):
        here = seen[:, group] - seen[:, group].mean(axis=0)
        there = made[:, group * 6 // groups : (group + 1) * 6 // groups]
        np.testing.assert_allclose(known.xx[group], here.T @ here / len(here), atol=1e-12)
        np.testing.assert_allclose(known.yx[group], (there - there.mean(0)).T @ here / len(here), atol=1e-12)
