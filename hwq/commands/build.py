"""``hwq build``: a board's bitstream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwq.commands.options import JsonFile

if TYPE_CHECKING:
    from types import ModuleType


def build(
    board: Annotated[
        str, typer.Option("--board", "-b", metavar="BOARD", help="Without it the boards are listed.")
    ] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.")] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", "-a", metavar="ARCH", help="The board's own without it.")
    ] = None,
    clock: Annotated[float | None, typer.Option(metavar="MHZ", help="The board's own without it.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Placements to try.")] = 4,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what it would take, from earlier builds, in a moment.")
    ] = False,
    json: JsonFile = None,
) -> None:
    """Build a board's bitstream with Yosys and nextpnr: DIR/top.bit or top.bin, report.json and the tools' logs.

    What is done stays done: an interrupted build goes on where it stopped. Exit status 1: the accelerator doesn't fit
    the device, or misses its clock.
    """
    from hwq.commands.console import console, progress, write_report
    from hwq.errors import HwqError

    if estimate:
        print_estimate(board, arch, json)
        return
    if output is None:
        boards_module("registry").find(board)
        raise typer.BadParameter("a build needs a folder: --output DIR")
    with progress() as show:
        try:
            report = boards_module("build").build(board, output, arch=arch, clock_mhz=clock, seeds=seeds, progress=show)
        except OSError as error:
            raise HwqError(f"{output}: can't be written ({error.strerror or error})") from error
    write_report(json, report.to_dict())
    if str(json) != "-":
        print_report(report, output)
    if report.problem:
        console(stderr=True).print(f"hwq: {report.problem}", markup=False)
        raise typer.Exit(1)


def print_estimate(board: str, arch: str | None, json: Path | None) -> None:
    """Print what an accelerator would take; exit with status 1 where it wouldn't fit."""
    from dataclasses import asdict

    from hwq.commands.console import console, percent, table, write_report
    from hwq.config import load_arch

    config = load_arch(arch or boards_module("registry").find(board).arch)
    found = boards_module("estimate").estimate(board, config)
    write_report(json, {"board": board, "arch": config.name, "ok": not found.problem, **asdict(found)})
    if str(json) != "-":
        out = console()
        columns = ["resource", "about", "there", "", "error"]
        rows = [
            [kind, use.used, use.there, percent(use.used / use.there), f"{100 * found.error[kind]:.0f}%"]
            for kind, use in found.resources.items()
        ]
        out.print(table(f"{config.name} on {board}, estimated", columns, rows, numbers=columns[1:]))
        if found.fmax_mhz is not None:
            slowest, fastest = found.fmax_mhz
            out.print(f"Routed designs of this family reach {slowest:.0f} to {fastest:.0f} MHz.", markup=False)
    if found.problem:
        console(stderr=True).print(f"hwq: by estimate, {found.problem}", markup=False)
        raise typer.Exit(1)


def boards_module(name: str) -> ModuleType:
    """Return module `name` of the package of boards, by name: hwq knows no gateware.

    Raises
    ------
    MissingToolError
        Where what it needs isn't installed.
    """
    import importlib

    from hwq.errors import MissingToolError

    try:
        return importlib.import_module(f"boards.{name}")
    except ModuleNotFoundError as error:
        raise MissingToolError(
            f"hwq {name} needs {error.name}; install it with: pip install 'hwq[sim,boards]'"
        ) from error


def print_report(report: Any, output: Path) -> None:
    """Print the resources, each seed's clock and what sets it."""
    from hwq.commands.console import console, percent, table

    out = console()
    rows = [[kind, use.used, use.there, percent(use.used / use.there)] for kind, use in report.resources.items()]
    title = f"{report.arch} on {report.board} ({report.device})"
    out.print(table(title, ["resource", "used", "there", ""], rows, numbers=["used", "there", ""]))
    if report.lut_per_pe is not None:
        out.print(f"{report.lut_per_pe:g} LUT for each multiplier of the array, all else included.", markup=False)
    if report.timing is not None:
        reached = ", ".join(f"{seed}: {mhz:.1f}" for seed, mhz in report.seeds.items())
        out.print(f"Clock: {report.clock_mhz:g} MHz wanted; MHz reached by each seed: {reached}.", markup=False)
        path = report.timing
        spent = f"{path.logic_ns:g} ns in cells and {path.routing_ns:g} ns in wires"
        out.print(f"Seed {report.best_seed}'s slowest path: {spent}, from {path.start} to {path.end}.", markup=False)
    if report.bitstream:
        out.print(f"Wrote {output}: {report.bitstream}, report.json.", markup=False)
