"""``hwq compile``: a model becomes a program file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwq.commands.options import Arch, JsonFile, Model, Weights, WeightStorage, writable

if TYPE_CHECKING:
    from hwq.program import Program


def compile_(
    model: Model,
    arch: Arch,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="P.hwq", help="Program file.", show_default=False, callback=writable),
    ],
    weights: Weights = WeightStorage.auto,
    compact: Annotated[bool, typer.Option("--compact", help="Prefer little memory to few cycles.")] = False,
    json: JsonFile = None,
) -> None:
    """Compile a model for an architecture into one program file."""
    from dataclasses import asdict

    from hwq.commands.console import bus_traffic, console, percent, progress, table, write_report
    from hwq.compiler import compile
    from hwq.costs import estimate

    with progress() as show:
        show(f"Compiling {model}", 0, 0)
        program = compile(model, arch, weights=weights.value, compact=compact)
        program.save(output)
    costs = estimate(program)
    memory = memory_use(program)
    report = {
        "model": program.name,
        "arch": program.config.name,
        "digest": program.config.digest(),
        "output": str(output),
        "layers": len(costs.layers),
        "memory": memory,
        "pages": costs.pages,
        "load_bytes": costs.load_bytes,
        "macs": costs.macs,
        "cycles_predicted": costs.cycles_predicted,
        "utilisation": costs.utilisation,
        "host_nodes": [asdict(node) for node in program.host_nodes],
        "rewrites": list(program.rewrites),
    }
    write_report(json, report)
    if str(json) == "-":
        return
    out = console()
    rows = [[name, use["used"], use["there"], percent(use["used"] / use["there"])] for name, use in memory.items()]
    out.print(table(f"{program.name} on {program.config.name}", ["memory", "used", "there", ""], rows,
                    numbers=["used", "there", ""]))  # fmt: skip
    hosts = ", ".join(dict.fromkeys(node.op for node in program.host_nodes)) or "none"
    out.print(
        f"{len(costs.layers)} layers, {costs.macs:,} MACs, {costs.cycles_predicted:,} cycles predicted "
        f"({percent(costs.utilisation)} of the array's rate); on the host: {hosts}.",
        markup=False,
    )
    out.print(bus_traffic(costs), markup=False)
    out.print(f"Wrote {output} ({output.stat().st_size:,} bytes).", markup=False)


def memory_use(program: Program) -> dict[str, dict[str, int]]:
    """Return how much of each memory `program` takes, in the page that takes most, and how much there is."""
    import numpy as np

    from hwq import isa

    config, touched = program.config, np.zeros(program.config.act_bytes, np.bool_)
    for step in program.array_steps:
        for port in (*step.inputs, *step.outputs, *(layer.output for layer in step.layers)):
            touched[port.address : port.address + port.size_bytes] = True
    for address, data in program.constants:
        touched[address : address + data.size] = True
    used: dict[str, tuple[Any, int]] = {
        "activation bytes": (touched.sum(), config.act_bytes),
        "weight bytes": (max(page.weights.size for page in program.pages), config.weight_words * config.cols),
        "parameter words": (max(len(page.params) for page in program.pages), config.param_words),
        "program slots": (max(len(page.words) for page in program.pages) // isa.SLOT_WORDS, config.slots),
    }
    if len(program.tables):
        used["tables"] = (max(len(page.tables) for page in program.pages), config.tables)
    return {name: {"used": int(use), "there": there} for name, (use, there) in used.items()}
