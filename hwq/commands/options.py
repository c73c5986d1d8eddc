"""Arguments that several commands take, declared once."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file, quantized.", show_default=False)]
Arch = Annotated[
    str,
    typer.Option("--arch", "-a", metavar="ARCH", help="Preset (hwq arch list) or TOML/JSON file.", show_default=False),
]


def writable(path: Path | None) -> Path | None:
    """Refuse, before any work is done, a path that nothing can be written to."""
    if path is not None and str(path) != "-":
        if path.exists() and not path.is_file():
            raise typer.BadParameter(f"{path} isn't a regular file")
        if not path.resolve().parent.is_dir():
            raise typer.BadParameter(f"{path}: there is no folder {path.resolve().parent}")
    return path


JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", help="Also write the report as JSON; - is standard output.", callback=writable
    ),
]


class WeightStorage(enum.StrEnum):
    """How weights are stored; see `hwq.compile`."""

    auto = "auto"
    int8 = "int8"
    codebook = "codebook"


Weights = Annotated[
    WeightStorage,
    typer.Option(
        help="auto: of 4 bits where they fit, with little memory as indices into codebooks as well, where the "
        "architecture has them; int8: as bytes; codebook: as auto, but codebooks at the cost of a few cycles."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the random samples.")]

MaxCycles = Annotated[int | None, typer.Option(min=1, help="Of one inference on ARCH.", show_default=False)]
MaxBytes = Annotated[int | None, typer.Option(min=1, help="Of weight memory.", show_default=False)]
MinAccuracy = Annotated[
    float | None, typer.Option(min=0, max=1, help="On the samples, 0 to 1; needs --labels.", show_default=False)
]
Labels = Annotated[
    str | None, typer.Option(metavar="NAME", help="Array of X.npz with the right answers.", show_default=False)
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Keep what is measured, and go on from it.", show_default=False, callback=writable
    ),
]
PlotFile = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw it.", show_default=False, callback=writable)
]
