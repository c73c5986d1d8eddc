"""``hwq check``: where each node of a model runs, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from hwq.commands.options import JsonFile, Model

_COMMON = "sim-16x16"
"""Architecture whose rules are shown where none is given; rules of size aren't among them."""


def check(
    model: Model,
    arch: Annotated[str | None, typer.Option("--arch", "-a", metavar="ARCH", help="Also check that it fits.")] = None,
    json: JsonFile = None,
) -> None:
    """Say for each node whether the array or the host runs it, which rule it breaks and what to do.

    Exit status 1: the model doesn't fit the architecture.
    """
    from hwq.commands.console import console, labels, table, write_report
    from hwq.compiler import compile, host_nodes, load, split
    from hwq.config import load_arch
    from hwq.errors import CapacityError

    config = load_arch(arch or _COMMON)
    source = load(model)
    graph, parts = split(source, config)
    reasons = {node.name: node for node in host_nodes(graph, parts, config)}
    nodes = []
    for part in parts:
        for op in part.ops:
            host = reasons.get(op.name)
            kind, why = (op.kind, "") if host is None else (host.op, host.reason)
            nodes.append({"name": op.name, "op": kind, "where": "array" if host is None else "host", "reason": why})
    problem = ""
    if arch is not None:
        try:
            compile(source, config, golden=False)
        except CapacityError as error:
            problem = str(error)
    fits = None if arch is None else not problem
    report = {"model": graph.name, "arch": arch and config.name, "ok": not problem, "fits": fits, "problem": problem}
    write_report(json, report | {"nodes": nodes, "rewrites": source.rewrites})
    if str(json) != "-":
        out = console()
        names = labels([node["name"] for node in nodes])
        rows = [[name, *list(node.values())[1:]] for name, node in zip(names, nodes, strict=True)]
        out.print(table(f"Nodes of {graph.name}", ["node", "op", "runs on", "why"], rows))
        on_array = sum(node["where"] == "array" for node in nodes)
        out.print(f"{on_array} of {len(nodes)} nodes run on the array.", markup=False)
        if arch is not None:
            out.print(problem or f"It fits {config.name}.", markup=False)
    if problem:
        raise typer.Exit(1)
