"""What is searched: assignments of weights to layers, each measured by quantizing, running and compiling it."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import onnx

from hwq.config import ArrayConfig
from hwq.costs import estimate
from hwq.ir import Array
from hwq.quantize.emit import emit
from hwq.quantize.journal import Journal
from hwq.quantize.metrics import compare, outputs
from hwq.quantize.recipe import Progress
from hwq.quantize.solve import Calibrated, Solved, solve

Assignment = tuple[str, ...]
"""The weights of each layer, in order."""


class Metric(enum.StrEnum):
    """What makes one assignment better than another: `Point.kl`, or the noise in `Point.sqnr_db`."""

    kl = "kl"
    sqnr = "sqnr"


@dataclass(frozen=True)
class Point:
    """An assignment and what was measured of it.

    Members
    -------
    weights : tuple of str
    cycles : int
        Of one inference on the array.
    weight_bytes : int
        In weight memory.
    sqnr_db, kl, accuracy : float, float, float or None
        As `hwq.quantize.metrics.Score` has them, on the samples that judge.
    """

    weights: Assignment
    cycles: int
    weight_bytes: int
    sqnr_db: float
    kl: float
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a chosen assignment must keep; None: as it comes.

    Members
    -------
    max_cycles : int
    max_bytes : int
        Of weight memory.
    min_accuracy : float
        Share of the samples that judge, 0 to 1.
    """

    max_cycles: int | None = None
    max_bytes: int | None = None
    min_accuracy: float | None = None

    @property
    def axis(self) -> str:
        """The member of `Point` that is traded against accuracy."""
        return "weight_bytes" if self.max_bytes is not None and self.max_cycles is None else "cycles"

    def excess(self, point: Point) -> float:
        """Return how far `point` is beyond the limits, as a share of them; 0: within."""
        over = [
            (point.cycles, self.max_cycles),
            (point.weight_bytes, self.max_bytes),
        ]
        found = sum(max(0.0, value / limit - 1) for value, limit in over if limit is not None)
        if self.min_accuracy is not None and point.accuracy is not None:
            found += max(0.0, self.min_accuracy - point.accuracy)
        return found


class Problem:
    """A calibrated network, an architecture, and every assignment that has been measured so far.

    Weights are fitted to every other sample and judged by those between, then the other way round: by the samples they
    were fitted to, four bits look better than they are.

    Members
    -------
    samples : int
        By which assignments are judged, each once.
    layers : tuple of str
    kinds : tuple of str
        What a layer's weights can be, the most accurate first.
    points : dict of assignment to Point
        Measured, in order.
    """

    def __init__(
        self,
        calibrated: Calibrated,
        config: ArrayConfig,
        kinds: Sequence[str],
        *,
        metric: Metric,
        labels: Array | None,
        journal: Journal,
        progress: Progress,
    ):
        self.kinds, self.progress = tuple(kinds), progress
        self.points: dict[Assignment, Point] = {}
        self._config, self._metric = config, metric
        self._journal, self._network = journal, calibrated.network()
        feeds = calibrated.feeds
        halves = (slice(0, None, 2), slice(1, None, 2)) if len(feeds) > 1 else (slice(None),)
        self._fitted = [replace(calibrated, feeds=feeds[half]) for half in halves]
        self._solved: list[Solved] = [{} for _ in halves]
        self._judged = [feeds[half] for half in reversed(halves)]
        self._wanted = outputs(calibrated.model, [feed for half in self._judged for feed in half])
        self._labels = None if labels is None else np.concatenate([labels[half] for half in reversed(halves)])
        self.layers, self.samples = tuple(self._network.layers), len(feeds)

    @property
    def size(self) -> int:
        """How many assignments there are."""
        return len(self.kinds) ** len(self.layers)

    def uniform(self, kind: str) -> Assignment:
        """Return the assignment of `kind` to every layer."""
        return (kind,) * len(self.layers)

    def loss(self, point: Point) -> float:
        """Return what is to be small: divergence [nat], or noise as a share of the signal."""
        return point.kl if self._metric is Metric.kl else math.pow(10, -point.sqnr_db / 10)

    def measure(self, weights: Assignment) -> Point:
        """Return the point of an assignment, its quality from the journal where that holds it.

        What it costs is always computed: the journal may be older than the compiler or the array's cycle model.
        """
        if weights not in self.points:
            key, models = " ".join(weights), self._models(weights)
            quality = self._journal.get(key)
            if quality is None:
                halves = [outputs(model, judged) for model, judged in zip(models, self._judged, strict=True)]
                got = [np.concatenate(values) for values in zip(*halves, strict=True)]
                quality = asdict(compare(self._wanted, got, self._labels))
                self._journal.put(key, quality)
            costs = estimate(models[0], self._config, weights=storage(weights))
            size = sum(layer.weight_bytes for layer in costs.layers)
            self.points[weights] = Point(weights, **{**quality, "cycles": costs.cycles_predicted, "weight_bytes": size})
        return self.points[weights]

    def _models(self, weights: Assignment) -> list[onnx.ModelProto]:
        """Return the networks that are fitted to each half of the samples."""
        chosen = dict(zip(self.layers, weights, strict=True))
        grids = [
            solve(fitted, self._network, chosen, lambda what, done, total: None, solved)
            for fitted, solved in zip(self._fitted, self._solved, strict=True)
        ]
        return [emit(self._network, grid) for grid in grids]


def storage(weights: Iterable[str]) -> str:
    """Return how `hwq.compile` should store the weights of an assignment."""
    return "codebook" if {"codebook", "nf4"} & set(weights) else "auto"


def front(points: Iterable[Point], problem: Problem, axis: str) -> list[Point]:
    """Return the points that no other one betters in both `axis` and loss, in the order of `axis`."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (getattr(point, axis), problem.loss(point), point.weights)):
        if not found or problem.loss(point) < problem.loss(found[-1]):
            found.append(point)
    return found
