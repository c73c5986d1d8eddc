"""Cycles are known before any hardware runs: every layer takes on the RTL what `hwq.timing` says, not one more."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring

import rtl.top
from hwq.config import PRESETS
from hwq.errors import CapacityError
from hwq.ladder import verify
from hwq.profile import profile
from sim import verilator_bus
from sim.build import build
from sim.elaborate import elaborate
from tests.cycles import descriptors, differences
from tests.programs import tiny
from tests.random_networks import RandomNetwork
from tests.test_verify import network
from tests.test_workloads import NETWORKS

ROOMY = {"act_bytes": 1 << 20, "weight_words": 1 << 18, "param_words": 1 << 13, "slots": 512, "tables": 4}
ARCHS = {
    "4x4": PRESETS["sim-4x4"],
    "8x16": replace(PRESETS["ecp5-8x16"], **ROOMY | {"name": "roomy-8x16", "weight_words": 1 << 16}),
    "3x5": tiny(3, 5, 4, 1, **ROOMY),
    "6x4": tiny(6, 4, 8, 2, **ROOMY),
}
"""Architectures on which every network fits; `tests.test_networks` has the presets."""

DORY = ("NAS_Frontnet/Frontnet.onnx", "eegnet_1d_8b_1xW/eegnet_id_8b.onnx")

SMALL = {
    "4x4": tiny(4, 4, 4, 1, tables=4),
    "8x16": tiny(8, 16, 16, 8, tables=3),
    "3x5": tiny(3, 5, 4, 1, tables=0),
    "6x4": tiny(6, 4, 4, 2, tables=16),
}
"""Architectures of the random layers; `tests.rtl.test_core` has the same ones, so their simulators serve both."""

RANDOM_NETWORKS, RANDOM_LAYERS = 80, 125
"""For each of `SMALL`: networks, and how many layers they have at least."""


@pytest.mark.system
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("path", [*NETWORKS, *(f"integer_goldens/dory/{path}" for path in DORY)])
def test_every_layer_of_a_network_takes_the_predicted_cycles(workloads, path, arch):
    run = profile(workloads / path, ARCHS[arch])
    assert len(descriptors(run)) >= len(run.costs.layers) >= 4
    assert differences(run) == []


@pytest.mark.system
@pytest.mark.parametrize("arch", SMALL)
def test_random_layers_take_the_predicted_cycles(arch):
    layers = 0
    for seed in range(RANDOM_NETWORKS):
        rng = np.random.default_rng([list(SMALL).index(arch), seed])
        network = RandomNetwork(rng, int(rng.integers(1, 4)))
        try:
            report = verify(network.model, SMALL[arch], samples=1, seed=seed)
        except CapacityError:  # too many weights for so small an array
            continue
        wrong = [layer for layer in report.layers if layer.cycles_measured != layer.cycles_predicted]
        assert wrong == [], f"network {seed}: {network.kinds}"
        assert report.ok, f"network {seed}: {network.kinds}, {[(rung.name, rung.mismatches) for rung in report.rungs]}"
        layers += len(report.layers)
    assert layers >= RANDOM_LAYERS


class Waiting(wiring.Component):
    """A unit that gets one of its inputs a cycle late."""

    def __init__(self, unit: wiring.Component, late: str):
        self._unit, self._late = unit, late
        super().__init__(unit.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        for name, member in unit.signature.members.items():
            outer, inner = getattr(self, name), getattr(unit, name)
            if not member.is_port:
                wiring.connect(m, wiring.flipped(outer), inner)
            elif name == self._late:
                m.d.sync += inner.eq(outer)
            else:
                m.d.comb += inner.eq(outer) if member.flow is wiring.In else outer.eq(inner)
        return m


@pytest.mark.rtl
@pytest.mark.parametrize(("unit", "late"), [("Fetch", "i_free"), ("Vector", "i_start")])
def test_a_planted_wait_state_is_found(monkeypatch, unit, late):
    right = getattr(rtl.top, unit)
    monkeypatch.setattr(rtl.top, unit, lambda config: Waiting(right(config), late))
    model, config = network(), tiny(2, 4, 4, 2, act_bytes=4096, weight_words=512, param_words=32, slots=16)
    library = build(elaborate(config))
    monkeypatch.setattr(verilator_bus, "open_bus", lambda config: verilator_bus.VerilatorBus(library))
    run = profile(model, config)
    extra = {measured - predicted for _, predicted, measured in descriptors(run)}
    assert extra == {0, 1} if unit == "Vector" else min(extra) == 0 < max(extra)
    assert len(differences(run)) >= 3, "a descriptor, its layer and the total"
    assert not run.costs.exact
    report = verify(model, config, samples=1)
    assert [rung.mismatches for rung in report.rungs] == [0, 0, 0], "nothing but time is wrong"
    assert not report.ok
