"""``hwq estimate``: cycles, MACs and bytes of each layer, from the descriptors alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwq.commands.options import Arch, JsonFile, Model, Weights, WeightStorage

if TYPE_CHECKING:
    from hwq.costs import Estimate


def estimate(model: Model, arch: Arch, weights: Weights = WeightStorage.auto, json: JsonFile = None) -> None:
    """Predict each layer's cycles, utilisation, bytes and bound; the RTL isn't needed."""
    from hwq.commands.console import write_report
    from hwq.costs import estimate as predict

    costs = predict(model, arch, weights=weights.value)
    write_report(json, costs.to_dict())
    if str(json) != "-":
        print_costs(costs)


def print_costs(costs: Estimate) -> None:
    """Print a row a layer and the totals; measured cycles where there are any."""
    from hwq.commands.console import bus_traffic, console, labels, percent, table

    measured = costs.cycles_measured is not None
    numbers = ["MACs", "predicted", *(["measured"] if measured else []), "rate", "read", "written", "weights"]
    rows: list[list[Any]] = []
    for name, layer in zip(labels([layer.name for layer in costs.layers]), costs.layers, strict=True):
        cycles = [layer.cycles_predicted, *([layer.cycles_measured] if measured else [])]
        moved = [layer.act_read_bytes, layer.act_write_bytes, layer.weight_bytes]
        rows.append([name, layer.op, layer.macs, *cycles, percent(layer.utilisation), *moved, layer.bound])
    title = f"{costs.model} on {costs.arch}: cycles and bytes"
    out = console()
    out.print(table(title, ["layer", "op", *numbers, "bound"], rows, numbers=numbers))
    beside = f", {costs.cycles_measured:,} measured" if costs.cycles_measured is not None else ""
    out.print(
        f"{costs.macs:,} MACs, {costs.cycles_predicted:,} cycles predicted{beside}, "
        f"{percent(costs.utilisation)} of the array's rate.",
        markup=False,
    )
    out.print(bus_traffic(costs), markup=False)
