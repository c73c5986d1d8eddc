"""Malformed descriptors on the machine: an error code, and no write outside the outputs of layers that ended."""

from __future__ import annotations

import functools

import numpy as np

from hwq import isa, timing
from hwq.addresses import output_addresses
from hwq.config import ArrayConfig
from hwq.machine import Machine
from tests import programs
from tests.campaigns.campaign import Campaign
from tests.campaigns.cores import ARRAYS

MOST = 1 << 14
"""Products of a layer that is run; a longer one only takes longer."""


def corrupted(words: np.ndarray, rng: np.random.Generator) -> tuple[list[int], str]:
    """Return a descriptor with something changed, and what."""
    how = rng.random()
    if how < 0.1:
        return [int(word) for word in rng.integers(0, 1 << 32, isa.DESCRIPTOR_WORDS)], "random words"
    if how < 0.3:
        out = [int(word) for word in words]
        for _ in range(int(rng.integers(1, 4))):
            out[rng.integers(len(out))] ^= 1 << int(rng.integers(32))
        return out, "bits"
    values = isa.decode(isa.DESCRIPTOR, words.tolist())
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        field = isa.DESCRIPTOR[rng.integers(len(isa.DESCRIPTOR))]
        low, high = field.range
        near = values[field.name] + int(rng.integers(-3, 4))
        value = int(rng.choice([low, high, 0, 1, 2, near, int(rng.integers(low, high + 1))]))
        values[field.name] = min(max(value, low), high)
    return isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, values), "fields"


def products(d: dict[str, int]) -> int:
    """Return a bound of a layer's products."""
    pixels = d["pixels"] * max(d["strips"], 1)
    return pixels * d["taps_y"] * d["taps_x"] * d["span"] * (d["repeats"] + 1) * d["blocks"]


def drawn(config: ArrayConfig, rng: np.random.Generator) -> tuple[Machine, str] | None:
    """Return a machine with a good layer, a malformed one and another good one, and its kind; None if it's too long."""
    machine = Machine(config)
    for name, memory in _memories(config).items():
        getattr(machine, name)[:] = memory
    programs.set_program(machine, programs.random_layers(config, rng, 3))
    first = isa.SLOT_WORDS
    words, kind = corrupted(machine.program[first:][: isa.DESCRIPTOR_WORDS], rng)
    machine.program[first : first + isa.DESCRIPTOR_WORDS] = words
    long = products(isa.decode(isa.DESCRIPTOR, words)) > MOST
    return None if long and accepts(machine, 1) else (machine, kind)


def accepts(machine: Machine, slot: int) -> bool:
    """Return whether the machine would run the descriptor in `slot`."""
    try:
        machine._decode(slot)
    except Exception:  # the trial itself shall tell which
        return False
    return True


@functools.cache
def _memories(config: ArrayConfig) -> dict[str, np.ndarray]:
    machine = programs.random_memories(config, np.random.default_rng(0))
    return {name: getattr(machine, name) for name in ("act", "weights", "params", "tables")}


def layers(machine: Machine, last: int) -> list[dict[str, int]]:
    """Return the descriptors up to slot `last`."""
    return [
        isa.decode(isa.DESCRIPTOR, machine.program[slot * isa.SLOT_WORDS :][: isa.DESCRIPTOR_WORDS].tolist())
        for slot in range(last + 1)
    ]


def writable(machine: Machine, last: int) -> np.ndarray:
    """Return which bytes of activation memory the layers up to slot `last` may write."""
    config, allowed = machine.config, np.zeros(machine.config.act_bytes, bool)
    mask = (1 << config.address_bits) - 1
    for slot, d in enumerate(layers(machine, last)):
        if accepts(machine, slot) and d["opcode"] != isa.Opcode.HALT:
            run = np.arange(timing.pixel_bytes(d, config))
            reach = ((output_addresses(d)[:, None] & mask) + run).reshape(-1)
            allowed[reach[reach < config.act_bytes]] = True
    return allowed


def on_machine(rng: np.random.Generator) -> list[str]:
    """Run a malformed layer on the machine."""
    config = ARRAYS[rng.integers(len(ARRAYS))]
    if (case := drawn(config, rng)) is None:
        return ["too long to run"]
    machine, kind = case
    before = machine.act.copy()
    status = machine.run()
    assert status.error in isa.ErrorCode
    assert status.error is not isa.ErrorCode.WATCHDOG
    done = status.slot - (status.error is not isa.ErrorCode.NONE)  # a layer that fails writes nothing
    stray = np.flatnonzero((machine.act != before) & ~writable(machine, done))
    assert not stray.size, f"slot {status.slot}, {status.error.name}: byte {stray[0]} written"
    return [f"{kind}: {status.error.name}"]


CAMPAIGN = Campaign("descriptors-machine", "malformed descriptors on the machine", 2, on_machine)
