"""Figures of merit of a classifier, from its probabilities and the right answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwq.ir import Array

BINS = 15
"""Of confidence, equally wide (Guo et al., 2017)."""

_SUM_ERROR = 0.05
"""By which outputs that are probabilities of 8 bits may miss a sum of 1."""


@dataclass(frozen=True)
class Bin:
    """Samples of about one confidence.

    Members
    -------
    samples : int
    confidence, accuracy : float
        Their means, 0 to 1; 0 where there are no samples.
    """

    samples: int
    confidence: float
    accuracy: float


def probabilities(outputs: Array) -> Array:
    """Return outputs (samples, classes) as probabilities: as they are where they add up to 1, or their softmax."""
    values = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
    total = values.sum(axis=1, keepdims=True)
    if values.min(initial=0) >= 0 and np.abs(total - 1).max(initial=0) <= _SUM_ERROR:
        return values / total
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def accuracy(chances: Array, labels: Array) -> float:
    """Return the share of samples whose likeliest class is their label, 0 to 1."""
    return float(np.mean(chances.argmax(axis=1) == labels))


def reliability(chances: Array, labels: Array) -> list[Bin]:
    """Return the `BINS` bins of confidence, that of the likeliest class; a bin has its upper end, not its lower one."""
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    found = []
    for index in range(BINS):
        inside = place == index
        count = int(inside.sum())
        means = [float(values[inside].mean()) if count else 0.0 for values in (confidence, right)]
        found.append(Bin(count, *means))
    return found


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error: the mean distance of accuracy and confidence over all samples, 0 to 1."""
    total = sum(entry.samples for entry in bins)
    return sum(entry.samples * abs(entry.accuracy - entry.confidence) for entry in bins) / max(total, 1)


def brier(chances: Array, labels: Array) -> float:
    """Return the mean squared distance of the probabilities from the right answers' (1 for the label), 0 to 2."""
    right = np.eye(chances.shape[1])[labels]
    return float(np.square(chances - right).sum(axis=1).mean())


def auroc(known: Array, unknown: Array) -> float:
    """Return the chance that a score of `known` is above one of `unknown`, equal ones counting half (Mann-Whitney)."""
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, side="left") + np.searchsorted(ordered, known, side="right")
    return float(below.mean() / 2 / len(unknown))


def roc(known: Array, unknown: Array) -> tuple[list[float], list[float]]:
    """Return the shares of `unknown` and of `known` that are at or above each score there is, from (0, 0) to (1, 1)."""
    levels = np.unique(np.concatenate([known, unknown]))[::-1]
    shares = [1 - np.searchsorted(np.sort(values), levels, side="left") / len(values) for values in (unknown, known)]
    return [0.0, *shares[0].tolist()], [0.0, *shares[1].tolist()]
