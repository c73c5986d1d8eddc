"""How much each layer's quantization alone costs the network's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hwq.errors import InputError
from hwq.ir import Array
from hwq.onnx_load import load_model
from hwq.quantize.emit import emit
from hwq.quantize.recipe import Progress, Recipe
from hwq.quantize.samples import Data, Feeds, run_each
from hwq.quantize.solve import Calibrated, calibrate, solve

_LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True)
class Sensitivity:
    """What one layer costs, everything else in floats.

    Members
    -------
    layer : str
    weights : str
        As in `Recipe`; its input and output are uint8.
    sqnr_db : float
        Signal to quantization noise of all outputs together [dB].
    kl : float
        Mean Kullback-Leibler divergence of the first output from its float values, as probabilities [nat].
    accuracy : float or None
        Share of samples, 0 to 1, whose greatest first output is at their label.
    """

    layer: str
    weights: str
    sqnr_db: float
    kl: float
    accuracy: float | None


def sensitivity(
    model: str | Path | onnx.ModelProto,
    data: Data,
    recipe: Recipe | None = None,
    *,
    labels: Array | None = None,
    weights: Sequence[str] = ("int8", "int4"),
    progress: Progress = lambda what, done, total: None,
) -> list[Sensitivity]:
    """Return what every layer alone costs, with each of `weights`; the most sensitive first.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Of floats.
    data : arrays by input name, samples first
        On which it is calibrated and measured.
    labels : integer array (samples,)
        Places of the right answers in the first output.

    Raises
    ------
    HwqError
        As `hwq.quantize.quantize` raises it; or there is not one label a sample.
    """
    name = "model" if isinstance(model, onnx.ModelProto) else Path(model).stem
    loaded = model if isinstance(model, onnx.ModelProto) else load_model(model)
    calibrated = calibrate(loaded, name, data, recipe or Recipe(), progress)
    if labels is not None and np.shape(labels) != (len(calibrated.feeds),):
        raise InputError(f"labels have shape {np.shape(labels)}: give one a sample, {len(calibrated.feeds)}")
    return measure_layers(calibrated, weights, labels, progress)


def measure_layers(
    calibrated: Calibrated, weights: Sequence[str], labels: Array | None, progress: Progress
) -> list[Sensitivity]:
    """Return `sensitivity` of a model that is calibrated already."""
    whole = calibrated.network()
    nodes = {node.name for node in calibrated.model.graph.node}
    outputs = [output.name for output in calibrated.model.graph.output]
    wanted = _outputs(calibrated.model, calibrated.feeds, outputs)
    found = []
    for index, layer in enumerate(whole.layers.values()):
        own = {layer.name} | ({layer.add.name} if layer.add is not None else set())
        own |= {whole.clamps[name].name for name in whole.clamps if whole.clamps[name].input[0] == layer.output}
        network = calibrated.network(nodes - own)
        for kind in weights:
            progress("Measuring layers", index, len(whole.layers))
            grid = solve(calibrated, network, {layer.name: kind}, lambda what, done, total: None)
            got = _outputs(emit(network, grid), calibrated.feeds, outputs)
            found.append(_compare(layer.name, kind, wanted, got, labels))
    return sorted(found, key=lambda entry: entry.sqnr_db)


def _outputs(model: onnx.ModelProto, feeds: Feeds, names: list[str]) -> list[Array]:
    """Return every output, the first axis counting samples."""
    runs = list(run_each(model, feeds, names))
    return [np.stack([run[name] for run in runs]).astype(np.float64) for name in names]


def _compare(layer: str, kind: str, wanted: list[Array], got: list[Array], labels: Array | None) -> Sensitivity:
    signal = sum(float(np.square(value).sum()) for value in wanted)
    noise = sum(float(np.square(a - b).sum()) for a, b in zip(wanted, got, strict=True))
    sqnr = 10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))
    p, q = _probabilities(wanted[0]), _probabilities(got[0])
    kl = float((p * np.log(p / q)).sum(axis=-1).mean())
    accuracy = None
    if labels is not None:
        accuracy = float(np.mean(got[0].reshape(len(labels), -1).argmax(axis=1) == labels))
    return Sensitivity(layer, kind, float(sqnr), kl, accuracy)


def _probabilities(values: Array) -> Array:
    """Return values along the last axis as they are where they are probabilities, else their softmax."""
    if values.min() < 0 or not np.allclose(values.sum(axis=-1), 1, atol=1e-3):
        values = np.exp(values - values.max(axis=-1, keepdims=True))
    values = np.maximum(values, _LEAST_PROBABILITY)
    return values / values.sum(axis=-1, keepdims=True)
