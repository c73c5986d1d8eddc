"""The search for mixed precision: its methods over one problem, the front they found, and the choice within limits."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from hwq.config import ArrayConfig, load_arch
from hwq.errors import HwqError, InputError, ModelError
from hwq.ir import Array
from hwq.onnx_load import load_model
from hwq.quantize.journal import Journal, digest
from hwq.quantize.recipe import BITS, Progress, Recipe
from hwq.quantize.samples import Data
from hwq.quantize.search import evolution, integer, policy
from hwq.quantize.search.problem import Limits, Metric, Point, Problem, front, storage
from hwq.quantize.sensitivities import check_labels
from hwq.quantize.solve import calibrate


class Searcher(enum.StrEnum):
    """How assignments are found; see `integer`, `evolution` and `policy` beside this file."""

    integer = "integer"
    evolution = "evolution"
    policy = "policy"


@dataclass(frozen=True)
class Found:
    """What a search found.

    Members
    -------
    model, arch : str
    layers : tuple of str
    axis : str
        ``cycles`` or ``weight_bytes``: what the front trades for accuracy.
    samples : int
        Those by which assignments were judged.
    points : tuple of Point
        All that was measured, in order.
    front : tuple of Point
        Those that none betters, the cheapest first.
    chosen : Point
        The best one within the limits.
    """

    model: str
    arch: str
    layers: tuple[str, ...]
    axis: str
    samples: int
    points: tuple[Point, ...]
    front: tuple[Point, ...]
    chosen: Point

    @property
    def weights(self) -> dict[str, str]:
        """What was chosen for each layer, as `Recipe.weights` takes it."""
        return dict(zip(self.layers, self.chosen.weights, strict=True))

    @property
    def storage(self) -> str:
        """How `hwq.compile` should store the chosen weights."""
        return storage(self.chosen.weights)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self) | {"storage": self.storage}


def search(
    model: str | Path | onnx.ModelProto,
    data: Data,
    arch: str | Path | ArrayConfig,
    *,
    limits: Limits | None = None,
    recipe: Recipe | None = None,
    kinds: Sequence[str] = (),
    searchers: Sequence[Searcher] = (Searcher.integer,),
    metric: Metric = Metric.kl,
    labels: Array | None = None,
    points: int = 12,
    evaluations: int = 200,
    seed: int = 0,
    resume: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Found:
    """Find which weights to give each layer.

    Every assignment is measured as it would be written: quantized, compiled for `arch` and run, but fitted to every
    other sample and judged by those between, then the other way round. Equal arguments give equal results, also where
    `resume` saved most of the work.

    Parameters
    ----------
    model, data
        As `hwq.quantize.quantize` takes them.
    arch : preset name, architecture file or ArrayConfig
        Whose cycles and bytes count.
    limits : Limits
        With `min_accuracy`, the cheapest assignment that reaches it is chosen; else that of the least loss.
    recipe : Recipe
        Its weights don't count.
    kinds : sequence of str
        What a layer's weights can be, the most accurate first. Empty: int8 and int4, with a limit on bytes codebooks
        as well.
    searchers : sequence of Searcher
        One after the other; each but `integer` goes on from what was measured before.
    metric : Metric
    labels : integer array (samples,)
        Places of the right answers in the first output.
    points : int
        Limits for which `integer` is solved.
    evaluations : int
        Assignments that `evolution` and `policy` measure, each.
    resume : Path
        Keeps what is measured, and has what an interrupted search measured.

    Raises
    ------
    HwqError
        As `hwq.quantize.quantize` raises it; or nothing that was measured is within the limits.
    """
    limits, config = limits or Limits(), load_arch(arch)
    if limits.min_accuracy is not None and labels is None:
        raise InputError("a least accuracy needs labels: name their array")
    kinds = tuple(kinds) or (("int8", "int4") if limits.max_bytes is None else ("int8", "int4", "codebook"))
    unknown = next((kind for kind in kinds if kind not in BITS), None)
    if unknown is not None or len(set(kinds)) < len(kinds):
        raise HwqError(f"weights can't be chosen from {', '.join(kinds)}: name {', '.join(BITS)}, each at most once")
    if "nf4" in kinds and not config.block_scales:
        raise HwqError(f"{config.name} leaves nf4 to the host: name other kinds, or an arch with block_scales")
    name = "model" if isinstance(model, onnx.ModelProto) else Path(model).stem
    loaded = model if isinstance(model, onnx.ModelProto) else load_model(model)
    calibrated = calibrate(loaded, name, data, recipe or Recipe(), progress)
    check_labels(labels, len(calibrated.feeds))
    journal = Journal(resume, digest(["search by halves", *calibrated.parts(), repr(labels), config.digest()]))
    problem = Problem(calibrated, config, kinds, metric=metric, labels=labels, journal=journal, progress=progress)
    if not problem.layers:
        raise ModelError(f"{name}: holds no layer with constant weights, so there is nothing to quantize")
    for kind in kinds:
        problem.measure(problem.uniform(kind))
    for searcher in searchers:
        if searcher is Searcher.integer:
            integer.search(problem, limits, points)
        else:
            found = evolution if searcher is Searcher.evolution else policy
            found.search(problem, limits, evaluations, seed)
    measured = tuple(problem.points.values())
    outermost = tuple(front(measured, problem, limits.axis))
    chosen = choose(measured, problem, limits)
    return Found(name, config.name, problem.layers, limits.axis, problem.samples, measured, outermost, chosen)


def choose(points: Sequence[Point], problem: Problem, limits: Limits) -> Point:
    """Return the best of the points within the limits.

    Raises
    ------
    HwqError
        There is none; names the nearest one.
    """
    inside = [point for point in points if limits.excess(point) == 0]
    if not inside:
        near = min(points, key=limits.excess)
        reached = f"{near.cycles:,} cycles, {near.weight_bytes:,} bytes"
        if near.accuracy is not None:
            reached += f", accuracy {near.accuracy:.4f}"
        raise HwqError(f"no assignment that was measured is within the limits; the nearest one has {reached}")
    if limits.min_accuracy is not None:
        return min(inside, key=lambda point: (getattr(point, limits.axis), problem.loss(point), point.weights))
    return min(inside, key=lambda point: (problem.loss(point), getattr(point, limits.axis), point.weights))
