"""A quantized classifier on labelled samples, beside the float network it was made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwq.compiler import load
from hwq.errors import InputError
from hwq.evaluation import corruptions, scores
from hwq.host import oracle_session, run_session
from hwq.ir import Array
from hwq.onnx_load import load_model
from hwq.onnx_writer import write
from hwq.quantize.recipe import Progress

Samples = Mapping[str, Array]
Key = tuple[str, str, int]
"""Kind, name and severity of a set of samples."""


@dataclass(frozen=True)
class ClassScore:
    """One class.

    Members
    -------
    label, samples : int
    accuracy : float
        Share of its samples that are found, 0 to 1.
    """

    label: int
    samples: int
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """One network.

    Members
    -------
    accuracy, calibration_error, brier : float
        See `hwq.evaluation.scores`.
    classes : list of ClassScore
        Those that labels name.
    reliability : list of Bin
    corrupted : dict of str to list of float
        Accuracy at each of the severities.
    unknown : dict of str to float
        AUROC of telling the samples from unknown ones by the confidence in the likeliest class.
    """

    accuracy: float
    calibration_error: float
    brier: float
    classes: list[ClassScore]
    reliability: list[scores.Bin]
    corrupted: dict[str, list[float]]
    unknown: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """What `evaluate` found.

    Members
    -------
    model : str
    samples : int
    networks : dict of str to Evaluation
        ``quantized`` and, where it was given, ``float``.
    agreement : float or None
        Share of samples that both give the same answer.
    lost, gained : int or None
        Samples that only the float network, or only the quantized one, answers rightly.
    curves : dict of (network, unknown samples) to (list, list)
        Of the AUROCs; not in `to_dict`.
    """

    model: str
    samples: int
    networks: dict[str, Evaluation]
    agreement: float | None = None
    lost: int | None = None
    gained: int | None = None
    curves: dict[tuple[str, str], tuple[list[float], list[float]]] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {key: value for key, value in asdict(self).items() if key != "curves"}


def evaluate(
    model: str | Path | onnx.ModelProto,
    samples: Mapping[str, Array],
    labels: Array,
    *,
    floats: str | Path | onnx.ModelProto | None = None,
    unknown: Mapping[str, Array] | None = None,
    robustness: bool = True,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Comparison:
    """Measure a quantized classifier and, beside it, the float network.

    The quantized one runs as integer operators in ONNX Runtime, which every rung of `hwq.verify` equals.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Quantized; its first output has an element for each class.
    samples : arrays by input name, samples first
    labels : integer array (samples,)
        Places of the right answers in the output.
    floats : path or onnx.ModelProto
        The float network, of the same inputs.
    unknown : arrays by input name, samples first
        Of none of the classes; besides those that are made of `samples`.
    robustness : bool
        Corrupt the samples, and make unknown ones.
    seed : int
        Of both.

    Raises
    ------
    HwqError
        A model can't be read, or samples and labels don't fit it.
    """
    labels = np.asarray(labels)
    name = "model" if isinstance(model, onnx.ModelProto) else Path(model).stem
    networks = {"quantized": _Runner(write(load(model)), "quantized")}
    if floats is not None:
        whole = floats if isinstance(floats, onnx.ModelProto) else load_model(floats)
        networks["float"] = _Runner(whole, "float")
    for runner in networks.values():
        for given in (samples, *([unknown] if unknown is not None else [])):
            runner.check(given)
    samples = {entry: samples[entry] for runner in networks.values() for entry in runner.inputs}
    counts = {len(value) for value in samples.values()}
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or counts != {len(labels)} or not len(labels):
        raise InputError(f"labels have shape {labels.shape} and type {labels.dtype}: give one whole number a sample")
    sets = _sets(samples, unknown, robustness, seed)
    found, answers = dict[str, Evaluation](), dict[str, Array]()
    curves: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for number, (network, runner) in enumerate(networks.items()):
        clean = runner.run(samples)
        if labels.min() < 0 or labels.max() >= clean.shape[1]:
            raise InputError(f"labels are {labels.min()} to {labels.max()}: the output has {clean.shape[1]} classes")
        chances = {}
        for index, (key, make) in enumerate(sets.items()):
            progress(f"Running {len(sets)} sets of samples", number * len(sets) + index, len(networks) * len(sets))
            chances[key] = runner.run(make())
        answers[network], found[network] = clean.argmax(axis=1), _evaluation(clean, chances, labels)
        for (kind, what, _), values in chances.items():
            if kind == "unknown":
                curves[network, what] = scores.roc(clean.max(axis=1), values.max(axis=1))
    if floats is None:
        return Comparison(name, len(labels), found, curves=curves)
    right = {network: values == labels for network, values in answers.items()}
    agreement = float(np.mean(answers["float"] == answers["quantized"]))
    lost, gained = (right["float"] & ~right["quantized"]).sum(), (right["quantized"] & ~right["float"]).sum()
    return Comparison(name, len(labels), found, agreement, int(lost), int(gained), curves)


def _evaluation(clean: Array, chances: Mapping[Key, Array], labels: Array) -> Evaluation:
    """Return what the probabilities of the samples, and those of the other sets, say of a network."""
    bins = scores.reliability(clean, labels)
    corrupted: dict[str, list[float]] = {}
    unknown: dict[str, float] = {}
    for (kind, what, _), values in chances.items():
        if kind == "corrupted":
            corrupted.setdefault(what, []).append(scores.accuracy(values, labels))
        else:
            unknown[what] = scores.auroc(clean.max(axis=1), values.max(axis=1))
    return Evaluation(
        accuracy=scores.accuracy(clean, labels),
        calibration_error=scores.calibration_error(bins),
        brier=scores.brier(clean, labels),
        classes=_classes(clean, labels),
        reliability=bins,
        corrupted=corrupted,
        unknown=unknown,
    )


def _sets(samples: Samples, unknown: Samples | None, robustness: bool, seed: int) -> dict[Key, Callable[[], Samples]]:
    """Return what else to run: by kind, name and severity, a function that makes it."""
    found: dict[Key, Callable[[], Samples]] = {}
    if unknown is not None:
        found["unknown", "given samples", 0] = lambda: unknown
    if robustness:
        common = set.intersection(*(set(corruptions.names(value)) for value in samples.values()))
        for name, severity in itertools.product(corruptions.CORRUPTIONS, corruptions.SEVERITIES):
            if name in common:
                found["corrupted", name, severity] = partial(
                    _each, corruptions.corrupted, samples, name, severity, seed
                )
        for name in corruptions.UNKNOWN:
            found["unknown", name, 0] = partial(_each, corruptions.unknown, samples, name, seed)
    return found


def _each(change: Callable[..., Array], samples: Samples, *arguments: Any) -> Samples:
    return {name: change(value, *arguments) for name, value in samples.items()}


def _classes(chances: Array, labels: Array) -> list[ClassScore]:
    found = []
    for label in np.unique(labels):
        own = labels == label
        found.append(ClassScore(int(label), int(own.sum()), scores.accuracy(chances[own], labels[own])))
    return found


class _Runner:
    """A network, ready to run samples one after the other."""

    def __init__(self, model: onnx.ModelProto, name: str):
        self._session, self._name = oracle_session(model), name
        self.inputs = {entry.name: (entry.shape, entry.type) for entry in self._session.get_inputs()}
        self._output = self._session.get_outputs()[0].name

    def check(self, samples: Samples) -> None:
        """Raise InputError unless `samples` have the network's inputs."""
        for name, (shape, _) in self.inputs.items():
            if name not in samples:
                there = ", ".join(map(repr, samples)) or "nothing"
                raise InputError(f"the samples have no input {name!r} of the {self._name} network (they have {there})")
            own = samples[name].shape
            wanted = [(size, given) for size, given in zip(shape, (1, *own[1:]), strict=False) if isinstance(size, int)]
            if len(own) != len(shape) or any(size != given for size, given in wanted):
                sentence = f"input {name!r} has shape {own}: the {self._name} network takes samples of {tuple(shape)}"
                raise InputError(sentence)

    def run(self, samples: Samples) -> Array:
        """Return the probabilities (samples, classes)."""
        feeds = {name: samples[name] for name in self.inputs}
        for name, (_, kind) in self.inputs.items():
            if kind == "tensor(float)":
                feeds[name] = feeds[name].astype(np.float32)
        rows = []
        for index in range(len(next(iter(feeds.values())))):
            sample = {name: value[index : index + 1] for name, value in feeds.items()}
            rows.append(run_session(self._session, sample, [self._output])[self._output].reshape(-1))
        return scores.probabilities(np.stack(rows))
