"""Malformed descriptors on machine and RTL: an error code that has its reason, writes to outputs alone, a clean run."""

from __future__ import annotations

import functools

import numpy as np

from hwq import isa
from hwq.addresses import output_addresses, pixel_addresses, strip_inputs, tap_offsets
from hwq.config import ArrayConfig
from hwq.driver import Driver
from hwq.errors import DeviceError
from hwq.machine import Machine
from tests import programs
from tests.campaigns.campaign import Campaign
from tests.campaigns.descriptors import CONFIGS, channels, drawn, layers, writable
from tests.rtl.lockstep import compare, load


def ranges(d: dict[str, int], config: ArrayConfig) -> set[isa.ErrorCode]:
    """Return which memories a layer with legal fields leaves, any of which the core may meet first."""
    mask = (1 << config.address_bits) - 1
    count = channels(d, config)
    runs = []
    starts = strip_inputs(d) if d["strips"] else pixel_addresses(d, "ifm")
    taps = tap_offsets(d)
    if d["opcode"] == isa.Opcode.DEPTHWISE:
        taps = (taps[:, None] + np.arange(d["span"]) * d["ifm_x_step"]).reshape(-1)
    conv = d["opcode"] == isa.Opcode.CONV
    runs.append(((starts[:, None] + taps) & mask, d["span"] if conv else count))
    if d["residual"]:
        runs.append((pixel_addresses(d, "res") & mask, count))
    runs.append((output_addresses(d) & mask, -(-count // 2) if d["ofm_int4"] else count))
    found = set()
    odd = config.one_port and d["opcode"] != isa.Opcode.VECTOR
    for addresses, run in runs:
        if addresses.max() + run > config.act_bytes or (odd and run > 1 and (addresses & 1).any()):
            found.add(isa.ErrorCode.ACT_RANGE)
    roomy = Machine(config)
    try:
        if d["opcode"] != isa.Opcode.VECTOR:
            roomy._weights(d, len(tap_offsets(d)) * d["span"] * (d["repeats"] + 1))
    except Exception:
        found.add(isa.ErrorCode.WEIGHT_RANGE)
    lanes, width = config.lanes, config.block_channels(d)
    each = d["param_step"] if d["opcode"] == isa.Opcode.VECTOR else -(-width // lanes)
    words = (d["blocks"] - 1) * each + (0 if d["opcode"] == isa.Opcode.VECTOR else (d["last_channels"] - 1) // lanes)
    if d["param_base"] + words >= config.param_words:
        found.add(isa.ErrorCode.PARAM_RANGE)
    return found


@functools.cache
def _driver(config: ArrayConfig) -> Driver:
    from sim.verilator_bus import open_bus

    return Driver(open_bus(config), config)


def on_core(rng: np.random.Generator) -> list[str]:
    """Run a malformed layer on the machine and on the core; then a good program."""
    config = CONFIGS[rng.integers(len(CONFIGS))]
    if (case := drawn(config, rng)) is None:
        return ["too long to run"]
    machine, kind = case
    driver, before = _driver(config), machine.act.copy()
    load(driver, machine)
    status = machine.run()
    name = "NONE"
    try:
        driver.start(0, 4_000_000)
    except DeviceError as error:
        name = str(error).rsplit(": ", 1)[-1]
    slot = driver._register("pc")
    if name != status.error.name:
        possible = ranges(layers(machine, slot)[-1], config)
        assert {isa.ErrorCode[name], status.error} <= possible, f"{status} on the machine, {name} in slot {slot}"
    after = driver.read_act(0, config.act_bytes)
    # a layer that may begin early has begun when the one before it fails
    stray = np.flatnonzero((after != before) & ~writable(machine, min(slot + 1, 2)))
    assert not stray.size, f"slot {slot}, {name}: byte {stray[0]} written"
    driver.clear()
    compare(driver, programs.random_machine(config, rng, 1), "after the clear")
    return [f"{kind}: {name}"]


CAMPAIGN = Campaign("descriptors-core", "malformed descriptors on machine and RTL, then a good program", 3, on_core)
