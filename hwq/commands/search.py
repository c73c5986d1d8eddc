"""``hwq search``: which layers' weights to make int8, int4 or codebooks, by cycles or bytes."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwq.commands.options import Arch, JsonFile, Labels, MaxBytes, MaxCycles, MinAccuracy, PlotFile, Resume, Seed
from hwq.commands.quantize import Calibration, Equalize, FloatModel, KeepFloat, Method, Percentile, Ranges, make_recipe

if TYPE_CHECKING:
    from hwq.quantize.search.mixed import Found


class Searcher(enum.StrEnum):
    """How assignments are found; see `hwq.quantize.search.mixed.Searcher`."""

    integer = "integer"
    evolution = "evolution"
    policy = "policy"


class Metric(enum.StrEnum):
    """What is compared; see `hwq.quantize.search.problem.Metric`."""

    kl = "kl"
    sqnr = "sqnr"


class Kind(enum.StrEnum):
    """What a layer's weights can be; see `hwq.quantize.Recipe`."""

    int8 = "int8"
    int4 = "int4"
    codebook = "codebook"
    nf4 = "nf4"


def search(
    model: FloatModel,
    calib: Calibration,
    arch: Arch,
    max_cycles: MaxCycles = None,
    max_bytes: MaxBytes = None,
    min_accuracy: MinAccuracy = None,
    labels: Labels = None,
    searcher: Annotated[
        list[Searcher] | None, typer.Option("--searcher", help="May be repeated. Default: integer.")
    ] = None,
    kind: Annotated[
        list[Kind] | None,
        typer.Option("--kind", help="Of weights, may be repeated. Default: int8, int4, with --max-bytes codebook."),
    ] = None,
    metric: Annotated[Metric, typer.Option(help="What counts: divergence or noise of the outputs.")] = Metric.kl,
    points: Annotated[int, typer.Option(min=2, help="Limits that the integer program is solved for.")] = 12,
    evaluations: Annotated[int, typer.Option(min=1, help="Of evolution and policy, each.")] = 200,
    seed: Seed = 0,
    method: Method = Ranges.mse,
    percentile: Percentile = 99.99,
    equalize: Equalize = False,
    keep_float: KeepFloat = None,
    resume: Resume = None,
    plot: PlotFile = None,
    json: JsonFile = None,
) -> None:
    """Search mixed precision: what accuracy costs in cycles or bytes, as a front, and the best within the limits."""
    from hwq.commands.console import progress, read_labelled, write_file, write_report
    from hwq.quantize.search import mixed
    from hwq.quantize.search.problem import Limits
    from hwq.quantize.search.problem import Metric as Measure

    samples, answers = read_labelled(calib, labels)
    with progress() as show:
        found = mixed.search(
            model,
            samples,
            arch,
            limits=Limits(max_cycles=max_cycles, max_bytes=max_bytes, min_accuracy=min_accuracy),
            recipe=make_recipe("int8", method, percentile, equalize, keep_float),
            kinds=[entry.value for entry in kind or ()],
            searchers=[mixed.Searcher(entry.value) for entry in searcher or [Searcher.integer]],
            metric=Measure(metric.value),
            labels=answers,
            points=points,
            evaluations=evaluations,
            seed=seed,
            resume=resume,
            progress=show,
        )
    if plot is not None:
        from hwq.quantize.search.drawing import drawing

        write_file(plot, drawing(found).encode())
    write_report(json, found.to_dict())
    if str(json) != "-":
        print_found(found)


def print_found(found: Found) -> None:
    """Print the front, and what was chosen."""
    from hwq.commands.console import console, labels, percent, table

    out = console()
    rows: list[list[Any]] = [
        [
            "*" if point == found.chosen else "",
            point.cycles,
            point.weight_bytes,
            f"{point.kl:.2e}",
            f"{point.sqnr_db:.1f}",
            None if point.accuracy is None else percent(point.accuracy),
            " ".join(f"{point.weights.count(kind)} {kind}" for kind in dict.fromkeys(point.weights)),
        ]
        for point in found.front
    ]
    columns = ["", "cycles", "weight bytes", "KL, nat", "SQNR, dB", "accuracy", "layers"]
    measured = f"{len(found.points)} assignments measured on {found.samples} samples"
    title = f"Mixed precision of {found.model} on {found.arch}, {measured}"
    out.print(table(title, columns, rows, numbers=columns[1:6]))
    names = labels(found.layers)
    layers = [[name, kind] for name, kind in zip(names, found.chosen.weights, strict=True)]
    out.print(table(f"Chosen (*): {found.chosen.cycles:,} cycles", ["layer", "weights"], layers))
    if found.storage != "auto":
        out.print(f"Its codebooks need hwq compile --weights {found.storage}.", markup=False)
