"""Malformed descriptors on machine and RTL: the same errors, bytes and cycles, writes to outputs alone, a clean run."""

from __future__ import annotations

import numpy as np

from hwq import isa, timing
from hwq.config import ArrayConfig
from hwq.errors import DeviceError
from hwq.machine import Machine
from tests import programs
from tests.campaigns.campaign import Campaign
from tests.campaigns.cores import ARRAYS, build, core
from tests.campaigns.descriptors import accepts, drawn, layers, writable
from tests.campaigns.edges import defined, end, param_words, runs
from tests.rtl.lockstep import SPARE_CYCLES, compare, load


def ranges(d: dict[str, int], config: ArrayConfig) -> set[isa.ErrorCode]:
    """Return which memories a layer with legal fields leaves, any of which the core may meet first."""
    found = set()
    odd = config.one_port and d["opcode"] != isa.Opcode.VECTOR
    for run in runs(d, config).values():
        if end(run) > config.act_bytes or (odd and run[1] > 1 and (run[0] & 1).any()):
            found.add(isa.ErrorCode.ACT_RANGE)
    if d["opcode"] != isa.Opcode.VECTOR and d["weight_base"] + timing.memory_words(d, config) > config.weight_words:
        found.add(isa.ErrorCode.WEIGHT_RANGE)
    if d["param_base"] + param_words(d, config) > config.param_words:
        found.add(isa.ErrorCode.PARAM_RANGE)
    return found


def most_cycles(machine: Machine) -> int:
    """Return a bound of the cycles until the machine's program stops on a core."""
    legal = next(slot for slot in range(4) if not accepts(machine, slot) or slot == 3)
    halt = isa.complete({"opcode": isa.Opcode.HALT})
    return timing.predict([*layers(machine, legal - 1), halt], machine.config).total


def on_core(rng: np.random.Generator) -> list[str]:
    """Run a malformed layer for some array on the machine and on the core; then a good program."""
    return trial(ARRAYS[rng.integers(len(ARRAYS))], rng)


def trial(config: ArrayConfig, rng: np.random.Generator) -> list[str]:
    """Run a malformed layer on the machine and on the core; then a good program."""
    if (case := drawn(config, rng)) is None:
        return ["too long to run"]
    machine, kind = case
    driver, before = core(config), machine.act.copy()
    driver.bus.reset()  # the trial before may have hung
    load(driver, machine)
    status, most = machine.run(), most_cycles(machine)
    name, cycles = "NONE", most
    try:
        cycles = driver.start(0, most + SPARE_CYCLES)["cycles"]
    except DeviceError as error:
        name = str(error).rsplit(": ", 1)[-1]
    slot = driver._register("pc")
    where = f"{status} on the machine, {name} in slot {slot}"
    failed = layers(machine, status.slot)[-1]
    # what an early layer does wrong at once has the slot of the one that still writes
    assert slot == status.slot - (status.slot > slot and failed["early"]), where
    if name != status.error.name:
        possible = {code.name for code in ranges(failed, config)} if accepts(machine, status.slot) else set()
        assert {name, status.error.name} <= possible, where
    assert cycles == most, f"{cycles} cycles in place of {most}"
    after = driver.read_act(0, config.act_bytes)
    # a layer that may begin early has begun when the one before it fails
    stray = np.flatnonzero((after != before) & ~writable(machine, min(slot + 1, 2)))
    assert not stray.size, f"slot {slot}, {name}: byte {stray[0]} written"
    bins = [f"{kind}: {name}"]
    if name == "NONE" and defined(layers(machine, slot - 1), config):
        wrong = np.flatnonzero(after != machine.act)
        assert not wrong.size, f"{wrong.size} bytes differ, first at {wrong[0]}"
        bins.append(f"{kind}: bytes compared")
    driver.clear()
    compare(driver, programs.random_machine(config, rng, 1), "after the clear")
    return bins


CAMPAIGN = Campaign(
    "descriptors-core", "malformed descriptors on machine and RTL, then a good program", 3, on_core, build
)
