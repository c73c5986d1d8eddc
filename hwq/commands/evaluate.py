"""``hwq evaluate``: a quantized classifier beside the float network it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwq.commands.options import JsonFile, Model, Seed, writable


def evaluate(
    model: Model,
    samples: Annotated[
        Path, typer.Option("--samples", metavar="X.npz", help="By input name, and their labels.", show_default=False)
    ],
    labels: Annotated[str, typer.Option(metavar="NAME", help="Array of X.npz with the right answers.")] = "y",
    floats: Annotated[
        Path | None, typer.Option("--float", metavar="FLOAT.onnx", help="Compare with it.", show_default=False)
    ] = None,
    unknown: Annotated[
        Path | None,
        typer.Option("--unknown", metavar="Z.npz", help="Samples of none of the classes.", show_default=False),
    ] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness/--plain", help="Corrupted samples as well, and unknown ones made of them.")
    ] = True,
    seed: Seed = 0,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="A page.", show_default=False, callback=writable)
    ] = None,
    json: JsonFile = None,
) -> None:
    """Measure accuracy, confidence, robustness and the telling of unknown samples, beside the float network's."""
    from hwq.commands.console import console, progress, read_arrays, read_labelled, table, write_file, write_report
    from hwq.evaluation.evaluate import evaluate as measure
    from hwq.evaluation.page import figures, page

    given, answers = read_labelled(samples, labels)
    assert answers is not None
    strange = None if unknown is None else read_arrays(unknown)
    with progress() as show:
        found = measure(
            model, given, answers, floats=floats, unknown=strange, robustness=robustness, seed=seed, progress=show
        )
    if html is not None:
        write_file(html, page(found).encode())
    write_report(json, found.to_dict())
    if str(json) != "-":
        columns, rows = figures(found)
        out = console()
        out.print(table(f"{found.model} on {found.samples} samples", columns, rows, numbers=columns[1:]))
        if found.agreement is not None:
            sentence = f"Float and quantized agree on {100 * found.agreement:.1f}%; quantization loses "
            out.print(f"{sentence}{found.lost} right answers and gains {found.gained}.", markup=False)
