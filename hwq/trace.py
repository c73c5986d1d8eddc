"""A program's run as a Chrome trace (chrome://tracing, Perfetto), a microsecond standing for a clock cycle.

Its events are those `hwq.timing` predicts, which the hardware's counters confirm: the mesh's and the vector path's
cycles, set-up and tail add up to the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hwq import isa, pipeline, timing
from hwq.program import ArrayStep, PortImage, Program

TRACKS = {
    "mesh": "steps of the mesh, and its waits between them",
    "vector path": "reads of pooling, addition and copies",
    "output path": "from the layer's turn to its last byte in memory",
    "idle": "neither mesh nor vector path works: set-up reads a descriptor, tail writes last results",
    "bus": "the host loads pages, writes inputs and reads outputs, a word at a time",
}
"""Track names, in the order of their thread numbers from 1, and what their events are."""

Event = dict[str, Any]


def chrome_trace(program: Program, slots: Mapping[int, int]) -> list[Event]:
    """Return the trace events of one sample's run.

    Parameters
    ----------
    program : Program
    slots : mapping of int to int
        Measured cycles of descriptors, where there are any; they are arguments of the events.
    """
    metadata = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": f"{program.name}, {program.config.name}"}}
    ]
    for tid, track in enumerate(TRACKS, 1):
        metadata.append({"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": track}})
    events: list[Event] = []
    origin, loaded = 0, program.pages[0] if len(program.pages) == 1 else None
    for step in program.array_steps:
        if loaded is None or program.page(step).first_slot != loaded.first_slot:
            loaded = program.page(step)
            cycles = -(-loaded.size_bytes // 4) * pipeline.BUS_WRITE
            events.append(_event("bus", f"load slot {loaded.first_slot}", origin, cycles, {"bytes": loaded.size_bytes}))
            origin += cycles
        for port in step.inputs:
            events.append(_transfer("write", port, origin, pipeline.BUS_WRITE))
            origin += events[-1]["dur"]
        run, total = _run(program, step, slots)
        events += [event | {"ts": origin + event["ts"]} for event in run]
        origin += total
        for port in step.outputs:
            events.append(_transfer("read", port, origin, pipeline.bus_read(program.config)))
            origin += events[-1]["dur"]
    return [*metadata, *events]


def _run(program: Program, step: ArrayStep, slots: Mapping[int, int]) -> tuple[list[Event], int]:
    """Return the events of a run from start to done, counted from its start, and its cycles."""
    names = {slot: item.name for item in step.layers for slot in range(item.first_slot, item.end_slot)}
    descriptors = program.descriptors(step.slot)
    predicted = timing.predict(descriptors, program.config, step.slot)
    events: list[Event] = []
    ended = issued = 0
    for layer, d in zip(predicted.layers, descriptors, strict=False):
        name = names.get(layer.slot, f"slot {layer.slot}")
        cycles = layer.end_cycle - layer.first_cycle
        arguments: dict[str, Any] = {"slot": layer.slot, "macs": layer.macs, "bound": layer.bound}
        arguments |= {"cycles_predicted": layer.cycles, "cycles_measured": slots.get(layer.slot)}
        if d["opcode"] == isa.Opcode.VECTOR:
            events.append(_event("vector path", name, layer.first_cycle, cycles, arguments))
        else:
            steps = timing.mesh_steps(d, program.config)
            arguments |= {"steps": steps, "waits": cycles - steps}
            events.append(_event("mesh", name, layer.first_cycle, cycles, arguments))
        late = pipeline.BACK_START if d["opcode"] == isa.Opcode.VECTOR else 0
        events += _idle(issued, ended, layer.first_cycle, 2 + late)
        turn, ended, issued = max(ended, layer.first_cycle - 1), ended + layer.cycles, layer.end_cycle
        events.append(_event("output path", name, turn, ended - turn, {"slot": layer.slot}))
    events += _idle(issued, ended, predicted.total, 0)
    return events, predicted.total


def _idle(issued: int, ended: int, first: int, start: int = 2) -> Iterator[Event]:
    """Yield what lies between two layers: the one before issued its last step and ended, the next begins at `first`.

    Set-up ends `start` cycles before the first step.
    """
    ready = max(ended, first - start)
    for name, begin, end in (("tail", issued, min(ended, first)), ("set-up", ended, ready), ("start", ready, first)):
        if begin < end:
            yield _event("idle", name, begin, end - begin, {})


def _transfer(verb: str, port: PortImage, start: int, cycles: int) -> Event:
    first, end = port.address // 4, -(-(port.address + port.size_bytes) // 4)
    arguments = {"address": port.address, "bytes": port.size_bytes}
    return _event("bus", f"{verb} {port.tensor}", start, (end - first) * cycles, arguments)


def _event(track: str, name: str, start: int, cycles: int, arguments: dict[str, Any]) -> Event:
    tid = list(TRACKS).index(track) + 1
    return {"ph": "X", "pid": 1, "tid": tid, "name": name, "cat": track, "ts": start, "dur": cycles, "args": arguments}
