"""``hwq profile``: predicted cycles beside those the RTL's counters measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwq.commands.options import Arch, JsonFile, Model, Weights, WeightStorage, writable

if TYPE_CHECKING:
    from hwq.costs import Estimate

BOUNDS = {
    "mac": "the mesh takes a step in every cycle",
    "weight": "a word of weights a cycle, for fewer pixels than the array has rows",
    "fetch": "activation memory delivers operands as fast as it can",
    "output": "results are written as fast as they can be",
    "vector": "the vector path reads as fast as it can",
}
"""What limits a layer, and what that means."""


def profile(
    model: Model,
    arch: Arch,
    target: Annotated[
        str, typer.Option("--target", "-t", help="verilator, amaranth, pins or serial:PORT.")
    ] = "verilator",
    weights: Weights = WeightStorage.auto,
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
        result = measure(model, arch, target=target, weights=weights.value)
    costs = result.costs
    write_report(trace, result.chrome_trace())
    write_report(json, costs.to_dict())
    if str(json) != "-":
        print_costs(costs)
        print_roofline(costs)
        total = max(1, costs.counters.get("cycles", 0))
        rows = [
            [why, costs.counters.get(name, 0), percent(costs.counters.get(name, 0) / total)]
            for name, why in COUNTERS.items()
        ]
        if len(costs.counters) > 1:
            console().print(table("Where the cycles went", ["", "cycles", "share"], rows, numbers=["cycles", "share"]))
        else:
            console().print("This architecture counts no cycles by layer or cause (monitor).")
    if not costs.exact:
        raise typer.Exit(1)


def print_roofline(costs: Estimate) -> None:
    """Print how near each layer comes to the array's rate, what holds it, and the cycles each cause has."""
    from hwq.commands.console import bar, console, labels, percent, table

    rows = []
    by_bound = dict.fromkeys(BOUNDS, 0)
    for name, layer in zip(labels([layer.name for layer in costs.layers]), costs.layers, strict=True):
        cycles = layer.cycles_measured or layer.cycles_predicted
        moved = layer.act_read_bytes + layer.act_write_bytes + layer.weight_bytes
        intensity = f"{layer.macs / moved:.1f}" if moved else ""
        rows.append([name, intensity, bar(layer.utilisation), percent(layer.utilisation), layer.bound])
        if layer.bound in by_bound:
            by_bound[layer.bound] += cycles
    numbers = ["MACs/byte", "of peak"]
    out = console()
    out.print(table("Roofline", ["layer", "MACs/byte", "rate", "of peak", "bound"], rows, numbers=numbers))
    total = max(1, sum(by_bound.values()))
    held = [[name, BOUNDS[name], cycles, percent(cycles / total)] for name, cycles in by_bound.items() if cycles]
    out.print(table("What holds the layers", ["bound", "", "cycles", "share"], held, numbers=["cycles", "share"]))
