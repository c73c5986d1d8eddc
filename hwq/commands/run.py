"""``hwq run``: a model or a program on a target, arrays in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwq.commands.options import JsonFile, writable


def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL|P.hwq", help="ONNX file or program.", show_default=False)],
    inputs: Annotated[
        Path,
        typer.Option("--input", "-i", metavar="X.npz", help="Inputs by name, samples first.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="Y.npz", help="Outputs by name.", show_default=False, callback=writable),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            help="reference, machine, amaranth, verilator, netlist[:BOARD], pins[:BOARD] or serial:PORT.",
        ),
    ] = "machine",
    arch: Annotated[
        str | None, typer.Option("--arch", "-a", metavar="ARCH", help="Needed for a model, but for the reference.")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Run a model or a program on a target."""
    from hwq.commands.console import console, progress, read_arrays, write_arrays, write_report
    from hwq.runtime import InferenceSession

    feeds = read_arrays(inputs)
    with progress() as show:
        show(f"Opening {target} (a simulator is built once and cached)", 0, 0)
        session = InferenceSession(model, arch, target)
        try:
            show(f"Running on {target}", 0, 0)
            values = session.run(None, feeds)
        finally:
            session.close()
    names = [info.name for info in session.get_outputs()]
    write_arrays(output, dict(zip(names, values, strict=True)))
    shapes = {name: list(value.shape) for name, value in zip(names, values, strict=True)}
    write_report(json, {"model": str(model), "target": target, "outputs": shapes, "counters": session.counters})
    if str(json) == "-":
        return
    cycles = session.counters.get("cycles")
    spent = f"; {cycles:,} cycles in all" if cycles else ""
    listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    console().print(f"Wrote {output}: {listed}{spent}.", markup=False)
