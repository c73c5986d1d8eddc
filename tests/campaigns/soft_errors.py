"""Single bits of memory inverted while a program runs on a core: masked, detected, silent or a hang."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hwq import isa, timing
from hwq.config import ArrayConfig
from hwq.driver import Driver
from hwq.errors import DeviceError, ParityError
from hwq.machine import Machine
from tests import programs
from tests.campaigns import edges
from tests.campaigns.campaign import Campaign
from tests.campaigns.cores import WIDE
from tests.rtl.lockstep import SPARE_CYCLES, load

CHECKED = (
    programs.tiny(3, 5, 4, 1, tables=0, parity=1, weight_words=1536, param_words=96, **WIDE),
    programs.tiny(6, 4, 4, 2, tables=16, act_bits=4, parity=1, **WIDE),
)
"""Memories of which some are deeper than a power of two; with strips, pairs of lanes, packed bytes."""

SMALL = programs.tiny(4, 4, 4, 1, act_bytes=256, weight_words=64, param_words=8, slots=2, tables=0, parity=1)
"""So small that every bit of it can be tried."""

BARE = replace(SMALL, parity=0)
MEMORIES = ("act", "weights", "params", "program")
HANG_FACTOR = 10
"""Times the cycles that a program takes, after which it hangs."""


@dataclass(frozen=True)
class Fault:
    """Bit `bit` of row `row` of memory `memory` is inverted `cycle` cycles after the start."""

    memory: str
    row: int
    bit: int
    cycle: int = 0


@functools.cache
def core(config: ArrayConfig) -> Driver:
    """Return the driver of a core whose memories can be changed; it is built when it isn't in the cache."""
    from sim.faults import open_bus

    return Driver(open_bus(config), config)


def build() -> None:
    """Build every core."""
    for config in (*CHECKED, SMALL, BARE):
        core(config)


def memories(config: ArrayConfig, part: str) -> list[str]:
    """Return the names of the simulator's memories that one of `MEMORIES` is made of, banks and halves in order."""
    names = [name for name in core(config).bus.storage if name.split(".")[0] == part]
    assert names, part
    return sorted(names, key=lambda name: (".upper" in name, len(name), name))


def every_bit(config: ArrayConfig, part: str) -> Iterator[Fault]:
    """Return the faults of all bits of a memory, at the start."""
    for name in memories(config, part):
        storage = core(config).bus.storage[name]
        yield from (Fault(name, row, bit) for row in range(len(storage.rows)) for bit in range(storage.bits))


def read(machine: Machine) -> dict[str, set[int]]:
    """Return which bytes of activation memory, and words of the others, the layers and the sequencer read."""
    config, layers = machine.config, programs.decoded(machine)
    found: dict[str, set[int]] = {part: set() for part in MEMORIES}
    for slot, d in enumerate(layers):
        found["program"] |= {slot * isa.SLOT_WORDS + word for word in range(isa.DESCRIPTOR_WORDS)}
        if d["opcode"] == isa.Opcode.HALT:
            continue
        for name, (first, count) in edges.runs(d, config).items():
            if name != "ofm":
                found["act"] |= set(map(int, np.unique(first.reshape(-1, 1) + np.arange(count))))
        if d["opcode"] != isa.Opcode.VECTOR:
            found["weights"] |= {d["weight_base"] + word for word in range(timing.memory_words(d, config))}
        found["params"] |= {d["param_base"] + word for word in range(edges.param_words(d, config))}
    return found


def located(config: ArrayConfig, part: str, place: int) -> tuple[str, int]:
    """Return the simulator's memory, and its row, of a byte of activation memory or of a word of another."""
    names = memories(config, part)
    if part == "act":
        return names[place % config.fetch_bytes], place // config.fetch_bytes
    below = len(core(config).bus.storage[names[0]].rows)
    return (names[0], place) if place < below else (names[1], place - below)


class Run:
    """A program in a core, and the bytes that its last layer is to write.

    Members
    -------
    cycles : int
        That it takes.
    """

    def __init__(self, machine: Machine):
        self._driver, self._machine = core(machine.config), machine
        layers = programs.decoded(machine)
        self.cycles = timing.predict(layers, machine.config).total
        first, count = edges.runs(layers[-2], machine.config)["ofm"]
        self._from, self._count = int(first.min()), edges.end((first, count)) - int(first.min())
        self._written = np.unique(first.reshape(-1, 1) + np.arange(count)) - self._from
        after = copy.deepcopy(machine)
        after.run()
        self._expected = after.act[self._from :][: self._count][self._written]

    def outcome(self, fault: Fault | None) -> str:
        """Load and run with a fault, if any: ``masked``, ``detected``, ``silent``, ``hang``, or another error's name.

        A core that has found a fault must be sound when it is loaded again.
        """
        found = self._outcome(fault)
        if found == "detected":
            assert self._outcome(None) == "masked", fault
        return found

    def _outcome(self, fault: Fault | None) -> str:
        driver = self._driver
        load(driver, self._machine)
        if fault is not None:
            driver.bus.inject(fault.memory, fault.row, fault.bit, fault.cycle)
        try:
            driver.start(0, HANG_FACTOR * self.cycles + SPARE_CYCLES)
            found = driver.read_act(self._from, self._count)[self._written]
        except ParityError:
            return "detected"
        except DeviceError as error:
            driver.bus.reset()
            return "hang" if " is still in slot " in str(error) else str(error).rsplit(": ", 1)[-1]
        return "masked" if (found == self._expected).all() else "silent"


def on_core(rng: np.random.Generator) -> list[str]:
    """Invert a bit of some memory, mostly where it is read, at some time of a random program."""
    config = (*CHECKED, BARE)[rng.integers(3)]
    count = int(rng.integers(1, 4))
    machine = small_machine(config, rng) if config is BARE else programs.random_machine(config, rng, count)
    run, part = Run(machine), MEMORIES[rng.integers(len(MEMORIES))]
    used = sorted(read(machine)[part])
    if used and rng.random() < 0.8:
        name, row = located(config, part, used[rng.integers(len(used))])
    else:
        names = memories(config, part)
        name = names[rng.integers(len(names))]
        row = int(rng.integers(len(core(config).bus.storage[name].rows)))
    bit = int(rng.integers(core(config).bus.storage[name].bits))
    found = run.outcome(Fault(name, row, bit, int(rng.choice([0, rng.integers(run.cycles)]))))
    assert not config.parity or found in ("masked", "detected"), f"{name} {row} {bit}: {found}"
    return [f"{'parity' if config.parity else 'no parity'}, {part}: {found}"]


def small_machine(config: ArrayConfig, rng: np.random.Generator) -> Machine:
    """Return a machine of `SMALL`'s sizes: a convolution that reads all weights and parameters, and HALT."""
    machine = programs.random_memories(config, rng)
    conv = {"opcode": isa.Opcode.CONV, "row_pixels": 16, "pixels": 16, "taps_y": 2, "taps_x": 2, "span": 8}
    conv |= {"ifm_x_step": 6, "tap_x_step": 8, "tap_y_step": 8, "blocks": 2, "last_channels": 4}
    conv |= {"ofm_base": 128, "ofm_x_step": 8, "lo": -128, "hi": 127}
    programs.set_program(machine, [conv])
    return machine


CAMPAIGN = Campaign("soft-errors", "bits of memory inverted while a core runs", 6, on_core, build)
