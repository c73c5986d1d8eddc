"""Predicted cycles beside those the hardware's own counters measured, and a trace of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hwq import pipeline
from hwq.compiler import Model, compile, load, random_feeds
from hwq.costs import Estimate, LayerCost, estimate, measured
from hwq.errors import HwqError
from hwq.program import Program
from hwq.runtime import Accelerator, open_backend

STALLS = {
    "cycles_mesh": "the mesh took a step",
    "cycles_fetch": "the mesh waited for activations",
    "cycles_output": "the mesh waited for the output path",
    "cycles_vector": "the vector path read an operand",
    "cycles_tail": "last results were on their way to memory",
    "cycles_setup": "a descriptor was being read",
}
"""The hardware's counters and what happened in the cycles they count."""


def profile(model: Model, arch: Any, *, target: str = "verilator", seed: int = 0) -> Estimate:
    """Run one random sample of `model` on `target` and return its costs with what the hardware counted.

    Cycles don't depend on the data.

    Raises
    ------
    HwqError
        As `hwq.compile` raises them, or where `target` has no clock.
    """
    graph = load(model)
    program = compile(graph, arch, golden=False)
    accelerator = Accelerator(program, open_backend(target, program.config))
    try:
        accelerator.run(random_feeds(graph, 1, seed))
    finally:
        accelerator.close()
    if not accelerator.counters and program.array_steps:
        raise HwqError(f"Target {target!r} has no clock to measure; use verilator, amaranth or serial:PORT")
    return measured(estimate(program), program.config, accelerator.counters, accelerator.profile)


def chrome_trace(costs: Estimate, program: Program) -> dict[str, Any]:
    """Return `costs` as a Chrome trace (chrome://tracing, Perfetto), a microsecond standing for a cycle.

    There is a track a unit: mesh and vector path from the end of the layer before to the end of their own, setup while
    a descriptor is read, which overlaps the layer before. Measured cycles are drawn where there are any.
    """
    tracks = {"mesh": 1, "vector": 2, "setup": 3}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}} for name, tid in tracks.items()
    ]
    events.append({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": f"{costs.model} on {costs.arch}"}})
    starts = [0]
    for layer in costs.layers:
        starts.append(starts[-1] + _cycles(layer))
    for layer, (start, end) in zip(costs.layers, pairwise(starts), strict=True):
        track = "vector" if layer.bound == "vector" else "mesh"
        arguments = {"macs": layer.macs, "bound": layer.bound, "utilisation": layer.utilisation}
        events.append(_event(layer.name, tracks[track], start, end - start, arguments))
        events.append(_event(f"read {layer.name}", tracks["setup"], start, min(pipeline.DESCRIPTOR_LOAD, end - start), {}))
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"counters": costs.counters}}


def _cycles(layer: LayerCost) -> int:
    return layer.cycles_predicted if layer.cycles_measured is None else layer.cycles_measured


def _event(name: str, track: int, start: int, cycles: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "pid": 1, "tid": track, "name": name, "ts": start, "dur": cycles, "args": arguments}
