"""``hwq verify``: every rung of the ladder, element by element."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwq.commands.options import Arch, JsonFile, Model, Seed, Weights, WeightStorage

if TYPE_CHECKING:
    from hwq.ladder import Report


def verify(
    model: Model,
    arch: Arch,
    inputs: Annotated[
        Path | None, typer.Option(metavar="X.npz", help="Samples by input name; random ones without it.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="How many; 4 random ones or all of --inputs.")] = None,
    seed: Seed = 0,
    targets: Annotated[
        str,
        typer.Option(
            metavar="T,T",
            help="From reference, machine, amaranth, verilator, netlist[:BOARD], pins[:BOARD], serial:PORT.",
        ),
    ] = "reference,machine,verilator",
    weights: Weights = WeightStorage.auto,
    bisect: Annotated[bool, typer.Option("--bisect", help="Find the first wrong layer, tile and element.")] = False,
    json: JsonFile = None,
) -> None:
    """Compare ONNX Runtime, the reference, the machine and the RTL, element by element.

    Exit status 1: something differs.
    """
    from hwq.commands.console import progress, read_arrays, write_report
    from hwq.ladder import verify as climb

    feeds = None if inputs is None else read_arrays(inputs)
    chosen = tuple(target.strip() for target in targets.split(","))
    with progress() as show:
        show(f"Compiling {model}", 0, 0)
        report = climb(
            model,
            arch,
            weights=weights.value,
            inputs=feeds,
            samples=samples,
            seed=seed,
            targets=chosen,
            bisect=bisect,
            progress=show,
        )
    write_report(json, report.to_dict())
    if str(json) != "-":
        print_report(report)
    if not report.ok:
        raise typer.Exit(1)


def print_report(report: Report) -> None:
    """Print the rungs, the cycles and what differs."""
    from hwq.commands.console import bus_traffic, console, percent, table

    out = console()
    columns = ["rung", "equal to", "elements", "mismatches", "max |diff|"]
    rows: list[list[Any]] = [
        [rung.name, rung.against, rung.elements, rung.mismatches, rung.max_abs_diff] for rung in report.rungs
    ]
    title = f"{report.model} on {report.arch}, {report.samples} samples"
    out.print(table(title, columns, rows, numbers=columns[2:]))
    for rung in report.rungs:
        if rung.first is not None:
            out.print(f"{rung.name}: {rung.first.sentence()}", markup=False)
    if report.lsb_histogram is not None:
        for name, counts in report.lsb_histogram.items():
            listed = ", ".join(f"{step}: {count:,}" for step, count in counts.items())
            out.print(f"{name} against the original model in ONNX Runtime, steps apart: {listed}", markup=False)
    measured = "" if report.cycles_measured is None else f", {report.cycles_measured:,} measured"
    out.print(
        f"{report.macs:,} MACs, {report.cycles_predicted:,} cycles predicted{measured}, "
        f"{percent(report.utilisation)} of the array's rate.",
        markup=False,
    )
    out.print(bus_traffic(report), markup=False)
    out.print("Equal on every rung." if report.ok else "NOT equal.", style="green" if report.ok else "bold red")
