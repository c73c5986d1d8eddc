"""``hwq quantize``: a float model and samples become a quantized model; ``hwq sensitivity``: what each layer costs."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwq.commands.options import JsonFile, Labels, MaxBytes, MaxCycles, MinAccuracy, PlotFile, Resume, writable

if TYPE_CHECKING:
    from hwq.quantize.recipe import Recipe
    from hwq.quantize.report import Report

FloatModel = Annotated[Path, typer.Argument(metavar="FLOAT.onnx", help="ONNX file, of floats.", show_default=False)]
Calibration = Annotated[
    Path, typer.Option("--calib", metavar="X.npz", help="Samples by input name.", show_default=False)
]
KeepFloat = Annotated[
    list[str] | None, typer.Option("--keep-float", metavar="LAYER", help="Stays in floats; may be repeated.")
]


class Weights(enum.StrEnum):
    """What weights can become; see `hwq.quantize.Recipe`."""

    int8 = "int8"
    int4 = "int4"
    codebook = "codebook"
    nf4 = "nf4"
    mixed = "mixed"


class Activations(enum.StrEnum):
    """What tensors between layers can become; see `hwq.quantize.Recipe`."""

    uint8 = "uint8"
    uint4 = "uint4"


class Ranges(enum.StrEnum):
    """How ranges of activations are chosen; see `hwq.quantize.recipe.Method`."""

    minmax = "minmax"
    percentile = "percentile"
    entropy = "entropy"
    mse = "mse"


Method = Annotated[Ranges, typer.Option("--method", help="How ranges of activations are chosen.")]
Percentile = Annotated[float, typer.Option(min=50, max=100, help="What --method percentile covers.")]
Equalize = Annotated[bool, typer.Option("--equalize", help="Balance the channels between layers first.")]


def quantize(
    model: FloatModel,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="Q.onnx", help="To be written.", show_default=False, callback=writable),
    ],
    calib: Annotated[
        Path | None,
        typer.Option(
            "--calib", metavar="X.npz", help="Samples by input name; all but --dynamic need them.", show_default=False
        ),
    ] = None,
    weights: Annotated[
        Weights, typer.Option(help="mixed: int8 for the layers that need it; with a limit, the best within it on ARCH.")
    ] = Weights.int8,
    activations: Annotated[Activations, typer.Option(help="Of the tensors between layers.")] = Activations.uint8,
    max_cycles: MaxCycles = None,
    max_bytes: MaxBytes = None,
    min_accuracy: MinAccuracy = None,
    labels: Labels = None,
    resume: Resume = None,
    method: Method = Ranges.mse,
    percentile: Percentile = 99.99,
    equalize: Equalize = False,
    fit: Annotated[
        bool, typer.Option("--fit/--nearest", help="Round weights by what the layer's sums are, or to nearest.")
    ] = True,
    correct_bias: Annotated[
        bool, typer.Option("--correct-bias/--keep-bias", help="Shift sums to their mean in floats.")
    ] = True,
    keep_float: KeepFloat = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Scales of activations at run time, on the host.")] = False,
    arch: Annotated[
        str, typer.Option("--arch", "-a", metavar="ARCH", help="Whose rules and cycles count.")
    ] = "sim-16x16",
    json: JsonFile = None,
) -> None:
    """Quantize a float model after training: activations and weights of 8 or 4 bits, all for the array."""
    from dataclasses import replace

    from hwq.commands.console import console, progress, read_labelled, write_file, write_report
    from hwq.config import load_arch
    from hwq.errors import InputError
    from hwq.quantize.dynamic import quantize_dynamic
    from hwq.quantize.quantizer import quantize as make
    from hwq.quantize.report import report
    from hwq.quantize.search.mixed import search
    from hwq.quantize.search.problem import Limits

    limits = Limits(max_cycles=max_cycles, max_bytes=max_bytes, min_accuracy=min_accuracy)
    if limits != Limits() and weights is not Weights.mixed:
        raise InputError("--max-cycles, --max-bytes and --min-accuracy choose weights by layer: give --weights mixed")
    if calib is None and not dynamic:
        raise InputError("give samples to calibrate on (--calib X.npz), or --dynamic")
    config = load_arch(arch)
    samples, answers = ({}, None) if calib is None else read_labelled(calib, labels)
    recipe = make_recipe(weights.value, method, percentile, equalize, keep_float, fit=fit, correct_bias=correct_bias)
    recipe = replace(recipe, activations=activations.value)
    with progress() as show:
        if limits != Limits():
            found = search(
                model, samples, config, limits=limits, recipe=recipe, labels=answers, resume=resume, progress=show
            )
            recipe = replace(recipe, weights=found.weights)
        quantized = quantize_dynamic(model, recipe) if dynamic else make(model, samples, recipe, progress=show)
    write_file(output, quantized.SerializeToString(deterministic=True))
    result = report(quantized, config)
    write_report(json, {"model": str(model), "output": str(output), "arch": config.name} | result.to_dict())
    if str(json) != "-":
        print_report(result, model.stem)
        console().print(f"Wrote {output} ({output.stat().st_size:,} bytes).", markup=False)


def print_report(result: Report, name: str) -> None:
    """Print the layers, the lattice and what stays on the host."""
    from hwq.commands.console import console, labels, percent, table

    out = console()
    names = labels([layer.name for layer in result.layers])
    rows: list[list[Any]] = [
        [name, layer.op, layer.weights or None, layer.bits or None, layer.channels, layer.on_lattice]
        for name, layer in zip(names, result.layers, strict=True)
    ]
    columns = ["layer", "op", "weights", "bits", "channels", "on the lattice"]
    out.print(table(f"Layers of {name}", columns, rows, numbers=columns[2:]))
    out.print(f"{percent(result.lattice_share)} of the channels need one product and one shift.", markup=False)
    for node in result.host_nodes:
        out.print(f"On the host: {labels([node.name])[0]} ({node.op}): {node.reason}", markup=False)


def sensitivity(
    model: FloatModel,
    calib: Calibration,
    labels: Labels = None,
    method: Method = Ranges.mse,
    percentile: Percentile = 99.99,
    equalize: Equalize = False,
    keep_float: KeepFloat = None,
    resume: Resume = None,
    plot: PlotFile = None,
    json: JsonFile = None,
) -> None:
    """Quantize one layer at a time and say what each costs the network's outputs; the most sensitive first."""
    from dataclasses import asdict

    from hwq.commands.console import console, percent, progress, read_labelled, table, write_file, write_report
    from hwq.commands.console import labels as shorten
    from hwq.quantize.sensitivities import sensitivity as measure

    samples, answers = read_labelled(calib, labels)
    recipe = make_recipe("int8", method, percentile, equalize, keep_float)
    with progress() as show:
        found = measure(model, samples, recipe, labels=answers, resume=resume, progress=show)
    names = shorten([entry.layer for entry in found])
    if plot is not None:
        from hwq.quantize.drawing import drawing

        write_file(plot, drawing(model.stem, found, names).encode())
    write_report(json, {"model": str(model), "layers": [asdict(entry) for entry in found]})
    if str(json) == "-":
        return
    rows = [
        [name, entry.weights, f"{entry.sqnr_db:.1f}", f"{entry.kl:.2e}", entry.accuracy and percent(entry.accuracy)]
        for name, entry in zip(names, found, strict=True)
    ]
    columns = ["layer", "weights", "SQNR, dB", "KL, nat", "accuracy"]
    console().print(table(f"What each layer of {model.stem} costs alone", columns, rows, numbers=columns[2:]))


def make_recipe(
    weights: str,
    method: Ranges,
    percentile: float,
    equalize: bool,
    keep_float: list[str] | None,
    *,
    fit: bool = True,
    correct_bias: bool = True,
) -> Recipe:
    """Return what the options say."""
    from hwq.quantize.recipe import Method, Recipe

    return Recipe(
        weights=weights,
        method=Method(method.value),
        percentile=percentile,
        equalize=equalize,
        fit=fit,
        correct_bias=correct_bias,
        keep_float=tuple(keep_float or ()),
    )
