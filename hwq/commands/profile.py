"""``hwq profile``: predicted cycles beside those the RTL's counters measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwq.commands.options import Arch, JsonFile, Model, writable


def profile(
    model: Model,
    arch: Arch,
    target: Annotated[
        str, typer.Option("--target", "-t", help="verilator, amaranth, pins or serial:PORT.")
    ] = "verilator",
    trace: Annotated[
        Path | None, typer.Option(metavar="T.json", help="Chrome trace to write.", callback=writable)
    ] = None,
    json: JsonFile = None,
) -> None:
    """Measure each layer's cycles on the RTL and show them beside the prediction.

    Exit status 1: they differ.
    """
    from hwq.commands.console import console, percent, progress, table, write_report
    from hwq.commands.estimate import print_costs
    from hwq.profile import COUNTERS
    from hwq.profile import profile as measure

    with progress() as show:
        show(f"Running on {target} (a simulator is built once and cached)", 0, 0)
        result = measure(model, arch, target=target)
    costs = result.costs
    write_report(trace, result.chrome_trace())
    write_report(json, costs.to_dict())
    if str(json) != "-":
        print_costs(costs)
        total = max(1, costs.counters.get("cycles", 0))
        rows = [
            [why, costs.counters.get(name, 0), percent(costs.counters.get(name, 0) / total)]
            for name, why in COUNTERS.items()
        ]
        console().print(table("Where the cycles went", ["", "cycles", "share"], rows, numbers=["cycles", "share"]))
    if not costs.exact:
        raise typer.Exit(1)
