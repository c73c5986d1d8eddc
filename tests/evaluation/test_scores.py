"""Figures of merit beside their definitions, written out."""

import numpy as np
import pytest

from hwq.evaluation import scores


def random_case(seed, samples=60, classes=4):
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(classes, 0.5), samples)
    return chances, rng.integers(0, classes, samples)


def test_probabilities_stay_and_logits_do_not():
    chances, _ = random_case(0)
    assert np.allclose(scores.probabilities(chances), chances)
    eighth = np.array([[0.5, 0.25, 0.23]])  # of 8 bits: not quite 1
    assert np.allclose(scores.probabilities(eighth), eighth / 0.98)
    assert np.allclose(scores.probabilities([[0.0, np.log(3)]]), [[0.25, 0.75]])
    assert np.allclose(scores.probabilities([[2.0, 2.0]]), 0.5)
    assert np.allclose(scores.probabilities([[1000.0, 0.0]]), [[1.0, 0.0]])


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_brier(seed):
    chances, labels = random_case(seed)
    right, squares = 0, 0.0
    for row, label in zip(chances.tolist(), labels.tolist(), strict=True):
        right += row.index(max(row)) == label
        squares += sum((value - (index == label)) ** 2 for index, value in enumerate(row))
    assert scores.accuracy(chances, labels) == right / 60
    assert scores.brier(chances, labels) == pytest.approx(squares / 60, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error(seed):
    chances, labels = random_case(seed)
    bins = scores.reliability(chances, labels)
    total = 0.0
    for index in range(15):
        own = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(chances.tolist(), labels.tolist(), strict=True)
            if index / 15 < max(row) <= (index + 1) / 15
        ]
        assert bins[index].samples == len(own)
        total += abs(sum(confidence - right for confidence, right in own)) / 60
    assert scores.calibration_error(bins) == pytest.approx(total, abs=1e-12)


def test_calibration_by_hand():
    """Of four answers at 0.8 three are right, of one at 0.6 none: (4 * 0.05 + 0.6) / 5."""
    chances = np.array([[0.8, 0.2]] * 4 + [[0.6, 0.4]])
    bins = scores.reliability(chances, np.array([0, 0, 0, 1, 1]))
    assert scores.calibration_error(bins) == pytest.approx(0.16, abs=1e-12)
    assert [entry.samples for entry in bins] == [0] * 8 + [1] + [0] * 2 + [4] + [0] * 3  # 0.6 and 0.8 are upper ends
    assert scores.reliability(np.array([[1.0, 0.0]]), np.array([0]))[-1] == scores.Bin(1, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_the_share_of_pairs_in_order(seed):
    rng = np.random.default_rng(seed)
    known, unknown = rng.integers(0, 9, 30) / 8, rng.integers(0, 7, 20) / 8
    pairs = [(k > u) + 0.5 * (k == u) for k in known for u in unknown]
    assert scores.auroc(known, unknown) == pytest.approx(np.mean(pairs), abs=1e-12)
    x, y = scores.roc(known, unknown)
    assert np.trapezoid(y, x) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


def test_auroc_of_what_is_apart():
    assert scores.auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert scores.auroc(np.array([0.0]), np.array([1.0])) == 0
    assert scores.auroc(np.array([1.0]), np.array([1.0])) == 0.5
