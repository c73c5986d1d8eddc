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
    """Say for each node whether the array or the host runs it, which rule it breaks and what to do."""
    from hwq.commands.console import console, labels, table, write_report
    from hwq.compiler import compile, host_nodes, load, split
    from hwq.config import load_arch
    from hwq.constraints import broken_storage_rule

    config = load_arch(arch or _COMMON)
    source = load(model)
    graph, parts = split(source, config)
    program = None if arch is None else compile(source, config, golden=False)
    on_host = host_nodes(graph, parts, config) if program is None else program.host_nodes
    reasons = {node.name: node for node in on_host}
    nodes = []
    for part in parts:
        for op in part.ops:
            host = reasons.get(op.name)
            kept = "" if host is not None else broken_storage_rule(op, graph, config) or ""
            kind, why = (op.kind, kept) if host is None else (host.op, host.reason)
            nodes.append({"name": op.name, "op": kind, "where": "array" if host is None else "host", "reason": why})
    pages = None if program is None else len(program.pages)
    fits = None if pages is None else pages == 1
    report = {"model": graph.name, "arch": arch and config.name, "ok": True, "fits": fits, "pages": pages}
    write_report(json, report | {"nodes": nodes, "rewrites": source.rewrites})
    if str(json) != "-":
        out = console()
        names = labels([node["name"] for node in nodes])
        rows = [[name, *list(node.values())[1:]] for name, node in zip(names, nodes, strict=True)]
        out.print(table(f"Nodes of {graph.name}", ["node", "op", "runs on", "why"], rows))
        on_array = sum(node["where"] == "array" for node in nodes)
        out.print(f"{on_array} of {len(nodes)} nodes run on the array.", markup=False)
        if fits is not None:
            verdict = (
                f"It fits {config.name}." if fits else f"It runs on {config.name} in {pages} pages, loaded in turn."
            )
            out.print(verdict, markup=False)
