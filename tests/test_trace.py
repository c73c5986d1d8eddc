"""Traces are in Chrome's format, draw every layer where it ran, and add up to the hardware's counters."""

import json
from itertools import pairwise

import pytest

from hwq import demo
from hwq.config import PRESETS
from hwq.profile import profile
from hwq.trace import TRACKS
from tests.test_verify import depthwise, network

pytestmark = pytest.mark.rtl

MODELS = {"digits": demo.model_path(), "every kind of layer": network(), "depthwise": depthwise(1)}


@pytest.fixture(scope="module", params=MODELS)
def run(request):
    return profile(MODELS[request.param], "sim-4x4")


@pytest.fixture
def trace(run):
    return json.loads(json.dumps(run.chrome_trace(), allow_nan=False))


def durations(trace):
    """Return the complete events by track."""
    names = {event["tid"]: event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    tracks = {name: [] for name in names.values()}
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            tracks[names[event["tid"]]].append(event)
    return tracks


def total(events):
    return sum(event["dur"] for event in events)


def test_is_in_the_chrome_trace_format(trace):
    """Trace Event Format: an object with traceEvents; phases M (metadata) and X (complete) with their fields."""
    assert trace["displayTimeUnit"] in ("ms", "ns")
    assert all(isinstance(value, int) for value in trace["otherData"].values())
    for event in trace["traceEvents"]:
        assert type(event["pid"]) is int
        assert isinstance(event["name"], str)
        assert isinstance(event["args"], dict)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
        else:
            assert event["ph"] == "X"
            assert type(event["tid"]) is type(event["ts"]) is type(event["dur"]) is int
            assert event["ts"] >= 0 < event["dur"]
            assert event["cat"] in TRACKS
    assert list(durations(trace)) == list(TRACKS)


def test_events_of_a_track_follow_one_another(trace):
    for track in durations(trace).values():
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(track))


def test_mesh_vector_path_and_idle_time_fill_the_run(run, trace):
    tracks = durations(trace)
    busy = sorted(tracks["mesh"] + tracks["vector path"] + tracks["idle"], key=lambda event: event["ts"])
    assert all(a["ts"] + a["dur"] == b["ts"] for a, b in pairwise(busy))
    assert total(busy) == run.costs.cycles_measured
    bus = tracks["bus"]
    writes, reads = ([event for event in bus if event["name"].startswith(verb)] for verb in ("write ", "read "))
    assert busy[0]["ts"] == writes[-1]["ts"] + writes[-1]["dur"]
    assert reads[0]["ts"] == busy[-1]["ts"] + busy[-1]["dur"]


def test_figures_add_up_to_the_counters(run, trace):
    tracks, counters = durations(trace), run.costs.counters
    mesh, idle = tracks["mesh"], tracks["idle"]
    assert counters["cycles_mesh"] == sum(event["args"]["steps"] for event in mesh)
    waits = sum(event["args"]["waits"] for event in mesh)
    assert counters["cycles_fetch"] + counters["cycles_output"] == waits == total(mesh) - counters["cycles_mesh"]
    assert counters["cycles_vector"] == total(tracks["vector path"])
    set_up = [event for event in idle if event["name"] == "set-up"]
    assert counters["cycles_setup"] == total(set_up)
    assert counters["cycles_tail"] == total(idle) - total(set_up)
    layers = mesh + tracks["vector path"]
    assert sum(event["args"]["macs"] for event in mesh) >= run.costs.macs
    assert {event["args"]["slot"]: event["args"]["cycles_measured"] for event in layers} == run.slots
    assert all(event["args"]["cycles_measured"] == event["args"]["cycles_predicted"] for event in layers)


def test_an_early_layer_begins_before_the_one_ahead_has_ended(run, trace):
    tracks = durations(trace)
    ends = {event["args"]["slot"]: event["ts"] + event["dur"] for event in tracks["output path"]}
    slots = [event["args"]["slot"] for event in tracks["mesh"] if event["ts"] < ends.get(event["args"]["slot"] - 1, 0)]
    (step,) = run.program.array_steps
    marked = {slot for slot, d in enumerate(run.program.descriptors(step.slot), step.slot) if d["early"]}
    assert set(slots) <= marked
    assert bool(slots) == bool(marked)
    begins = {event["args"]["slot"]: event["ts"] for event in tracks["mesh"] + tracks["vector path"]}
    for event in tracks["output path"]:
        slot = event["args"]["slot"]
        assert event["ts"] == max(begins[slot] - 1, ends.get(slot - 1, 0))


def test_bus_events_take_the_cycles_of_the_simulated_bus():
    import numpy as np

    from hwq import isa, pipeline
    from sim.verilator_bus import open_bus

    bus = open_bus(PRESETS["sim-4x4"])
    start = bus.cycles
    bus.write(isa.bus_address(isa.Region.ACT, 0), np.zeros(10, np.uint32))
    written = bus.cycles
    bus.read(isa.bus_address(isa.Region.ACT, 0), 10)
    assert (written - start, bus.cycles - written) == (
        10 * pipeline.BUS_WRITE,
        10 * pipeline.bus_read(PRESETS["sim-4x4"]),
    )
    bus.close()
