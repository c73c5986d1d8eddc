"""Predicted cycles beside those the hardware's own counters measured, and a trace of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hwq import isa, pipeline, timing
from hwq.compiler import Model, compile, load, random_feeds
from hwq.costs import Estimate, estimate, measured
from hwq.errors import HwqError
from hwq.program import Program
from hwq.runtime import Accelerator, open_backend

COUNTERS = {
    "cycles_mesh": "the mesh took a step",
    "cycles_fetch": "the mesh waited for activations",
    "cycles_output": "the mesh waited for the output path",
    "cycles_vector": "the vector path read an operand",
    "cycles_tail": "last results were on their way to memory",
    "cycles_setup": "a descriptor was being read",
}
"""The hardware's counters and what happened in the cycles they count."""


@dataclass(frozen=True)
class Profile:
    """One sample's run: `costs` with measured cycles, and the cycles of every descriptor slot."""

    program: Program
    costs: Estimate
    slots: dict[int, int] = field(default_factory=dict)

    def chrome_trace(self) -> dict[str, Any]:
        """Return the run as a Chrome trace (chrome://tracing, Perfetto), a microsecond standing for a cycle.

        There is a track a unit: mesh and vector path from the end of the descriptor before to the last byte of their
        own in memory; setup while a descriptor is read, which overlaps the one before.
        """
        tracks = {"mesh": 1, "vector": 2, "setup": 3}
        process = {
            "ph": "M",
            "pid": 1,
            "name": "process_name",
            "args": {"name": f"{self.costs.model}, {self.costs.arch}"},
        }
        events = [process]
        for name, tid in tracks.items():
            events.append({"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}})
        origin = 0
        for step in self.program.array_steps:
            names = {slot: item.name for item in step.layers for slot in range(item.first_slot, item.end_slot)}
            descriptors = self.program.descriptors(step.slot)
            predicted = timing.predict(descriptors, self.program.config, step.slot)
            read, go, end = 0, pipeline.DESCRIPTOR_LOAD, 0
            for item, descriptor in zip(predicted.layers, descriptors, strict=False):
                name = names.get(item.slot, f"slot {item.slot}")
                arguments = {"slot": item.slot, "macs": item.macs, "bound": item.bound}
                events.append(_event(f"read {name}", tracks["setup"], origin + read, go - read, {"slot": item.slot}))
                end += self.slots.get(item.slot, item.cycles)
                unit = "vector" if descriptor["opcode"] == isa.Opcode.VECTOR else "mesh"
                events.append(_event(name, tracks[unit], origin + go, end - go, arguments))
                read, go = go, max(end + 1, go + pipeline.DESCRIPTOR_LOAD)
            origin += go
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": self.costs.counters}


def profile(model: Model, arch: Any, *, target: str = "verilator", seed: int = 0) -> Profile:
    """Run one random sample of `model` on `target`; cycles don't depend on the data.

    Raises
    ------
    HwqError
        As `hwq.compile` raises them, or where `target` has no clock.
    """
    if target in ("reference", "machine"):
        raise HwqError(f"Target {target!r} has no clock to measure; use verilator, amaranth or serial:PORT")
    graph = load(model)
    program = compile(graph, arch, golden=False)
    accelerator = Accelerator(program, open_backend(target, program.config))
    try:
        accelerator.run(random_feeds(graph, 1, seed))
    finally:
        accelerator.close()
    costs = measured(estimate(program), program.config, accelerator.counters, accelerator.profile)
    return Profile(program, costs, accelerator.profile)


def _event(name: str, track: int, start: int, cycles: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "pid": 1, "tid": track, "name": name, "ts": start, "dur": cycles, "args": arguments}
