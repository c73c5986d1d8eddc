"""How much each layer's quantization alone costs the network's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from hwq.errors import InputError
from hwq.ir import Array
from hwq.onnx_load import load_model
from hwq.quantize.emit import emit
from hwq.quantize.journal import Journal, digest
from hwq.quantize.metrics import compare, outputs
from hwq.quantize.recipe import Progress, Recipe
from hwq.quantize.samples import Data
from hwq.quantize.solve import Calibrated, calibrate, solve


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
    resume: Path | None = None,
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
    resume : Path
        Keeps what is measured, and has what an interrupted call measured.

    Raises
    ------
    HwqError
        As `hwq.quantize.quantize` raises it; or there is not one label a sample, or `resume` is of other work.
    """
    name = "model" if isinstance(model, onnx.ModelProto) else Path(model).stem
    loaded = model if isinstance(model, onnx.ModelProto) else load_model(model)
    calibrated = calibrate(loaded, name, data, recipe or Recipe(), progress)
    check_labels(labels, len(calibrated.feeds))
    journal = Journal(resume, digest(["sensitivity", *calibrated.parts(), repr(labels)]))
    return measure_layers(calibrated, weights, labels, progress, journal)


def check_labels(labels: Array | None, samples: int) -> None:
    """Raise InputError unless there is one label a sample, or None."""
    if labels is not None and np.shape(labels) != (samples,):
        raise InputError(f"labels have shape {np.shape(labels)}: give one a sample, {samples}")


def measure_layers(
    calibrated: Calibrated,
    weights: Sequence[str],
    labels: Array | None,
    progress: Progress,
    journal: Journal,
) -> list[Sensitivity]:
    """Return `sensitivity` of a model that is calibrated already."""
    whole = calibrated.network()
    nodes = {node.name for node in calibrated.model.graph.node}
    wanted = outputs(calibrated.model, calibrated.feeds)
    found = []
    for index, layer in enumerate(whole.layers.values()):
        own = {layer.name} | ({layer.add.name} if layer.add is not None else set())
        own |= {whole.clamps[name].name for name in whole.clamps if whole.clamps[name].input[0] == layer.output}
        network = calibrated.network(nodes - own)
        for kind in weights:
            progress("Measuring layers", index, len(whole.layers))
            known = journal.get(f"{kind} {layer.name}")
            if known is None:
                grid = solve(calibrated, network, {layer.name: kind}, lambda what, done, total: None)
                known = asdict(compare(wanted, outputs(emit(network, grid), calibrated.feeds), labels))
                journal.put(f"{kind} {layer.name}", known)
            found.append(Sensitivity(layer.name, kind, **known))
    return sorted(found, key=lambda entry: entry.sqnr_db)
