"""``hwq quantize``: a float model and samples become a quantized model; ``hwq sensitivity``: what each layer costs."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwq.commands.options import JsonFile, writable

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
    calib: Calibration,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="Q.onnx", help="QDQ model.", show_default=False, callback=writable),
    ],
    weights: Annotated[Weights, typer.Option(help="mixed: int4, and int8 for the layers that need it.")] = Weights.int8,
    activations: Annotated[Activations, typer.Option(help="Of the tensors between layers.")] = Activations.uint8,
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
    arch: Annotated[str, typer.Option("--arch", "-a", metavar="ARCH", help="Whose rules are reported.")] = "sim-16x16",
    json: JsonFile = None,
) -> None:
    """Quantize a float model after training: activations and weights of 8 or 4 bits, all for the array."""
    from dataclasses import replace

    from hwq.commands.console import console, progress, read_arrays, write_file, write_report
    from hwq.config import load_arch
    from hwq.quantize.quantizer import quantize as make
    from hwq.quantize.report import report

    config, samples = load_arch(arch), read_arrays(calib)
    recipe = _recipe(weights.value, method, percentile, equalize, keep_float, fit=fit, correct_bias=correct_bias)
    recipe = replace(recipe, activations=activations.value)
    with progress() as show:
        quantized = make(model, samples, recipe, progress=show)
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
    labels: Annotated[
        str | None, typer.Option(metavar="NAME", help="Array of X.npz with the right answers.", show_default=False)
    ] = None,
    method: Method = Ranges.mse,
    percentile: Percentile = 99.99,
    equalize: Equalize = False,
    keep_float: KeepFloat = None,
    json: JsonFile = None,
) -> None:
    """Quantize one layer at a time and say what each costs the network's outputs; the most sensitive first."""
    from dataclasses import asdict

    from hwq.commands.console import console, percent, progress, read_arrays, table, write_report
    from hwq.commands.console import labels as shorten
    from hwq.errors import InputError
    from hwq.quantize.sensitivities import sensitivity as measure

    samples = read_arrays(calib)
    if labels is not None and labels not in samples:
        raise InputError(f"{calib}: has no array {labels!r} (it has {', '.join(map(repr, samples))})")
    answers = None if labels is None else samples[labels]
    recipe = _recipe("int8", method, percentile, equalize, keep_float)
    with progress() as show:
        found = measure(model, samples, recipe, labels=answers, progress=show)
    write_report(json, {"model": str(model), "layers": [asdict(entry) for entry in found]})
    if str(json) == "-":
        return
    names = shorten([entry.layer for entry in found])
    rows = [
        [name, entry.weights, f"{entry.sqnr_db:.1f}", f"{entry.kl:.2e}", entry.accuracy and percent(entry.accuracy)]
        for name, entry in zip(names, found, strict=True)
    ]
    columns = ["layer", "weights", "SQNR, dB", "KL, nat", "accuracy"]
    console().print(table(f"What each layer of {model.stem} costs alone", columns, rows, numbers=columns[2:]))


def _recipe(
    weights: str,
    method: Ranges,
    percentile: float,
    equalize: bool,
    keep_float: list[str] | None,
    *,
    fit: bool = True,
    correct_bias: bool = True,
) -> Recipe:
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
