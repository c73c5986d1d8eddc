"""How far a network's outputs are from those it had in floats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from hwq.ir import Array
from hwq.quantize.samples import Feeds, run_each

_LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True)
class Score:
    """Outputs beside those of the float network.

    Members
    -------
    sqnr_db : float
        Signal to quantization noise of all outputs together [dB].
    kl : float
        Mean Kullback-Leibler divergence of the first output from its float values, as probabilities [nat].
    accuracy : float or None
        Share of samples, 0 to 1, whose greatest first output is at their label.
    """

    sqnr_db: float
    kl: float
    accuracy: float | None


def outputs(model: onnx.ModelProto, feeds: Feeds) -> list[Array]:
    """Return every output of `model`, float64, the first axis counting samples."""
    names = [output.name for output in model.graph.output]
    runs = list(run_each(model, feeds, names))
    return [np.stack([run[name] for run in runs]).astype(np.float64) for name in names]


def compare(wanted: list[Array], got: list[Array], labels: Array | None) -> Score:
    """Return the score of the outputs `got` beside the float network's, `wanted`."""
    signal = sum(float(np.square(value).sum()) for value in wanted)
    noise = sum(float(np.square(a - b).sum()) for a, b in zip(wanted, got, strict=True))
    sqnr = 10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))
    p, q = probabilities(wanted[0]), probabilities(got[0])
    kl = float((p * np.log(p / q)).sum(axis=-1).mean())
    accuracy = None
    if labels is not None:
        accuracy = float(np.mean(got[0].reshape(len(labels), -1).argmax(axis=1) == labels))
    return Score(float(sqnr), kl, accuracy)


def probabilities(values: Array) -> Array:
    """Return values along the last axis as they are where they are probabilities, else their softmax."""
    if values.min() < 0 or not np.allclose(values.sum(axis=-1), 1, atol=1e-3):
        values = np.exp(values - values.max(axis=-1, keepdims=True))
    values = np.maximum(values, _LEAST_PROBABILITY)
    return values / values.sum(axis=-1, keepdims=True)
