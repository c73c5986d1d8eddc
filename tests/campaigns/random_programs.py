"""Random programs on machine and RTL: every memory, every layer's cycles, every counter, every error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwq import isa, timing
from hwq.config import ArrayConfig
from hwq.driver import Driver
from hwq.errors import DeviceError
from hwq.machine import Machine
from tests import programs
from tests.campaigns import coverage, edges
from tests.campaigns.campaign import Campaign
from tests.campaigns.cores import ARRAYS, build, core
from tests.rtl.lockstep import SPARE_CYCLES, compare, load

MOST_LAYERS = 8

Layers = tuple[dict[str, int], ...]


@dataclass(frozen=True)
class Case:
    """A program for an array.

    Members
    -------
    config : ArrayConfig
    layers : tuple of descriptors, HALT not among them
    slot : int
        Of the first.
    image : int
        Seed of the memories.
    error, what : str
        What the last one is meant to fail with, ``NONE`` where it isn't, and its bin.
    """

    config: ArrayConfig
    layers: Layers
    slot: int
    image: int
    error: str = "NONE"
    what: str = ""

    def machine(self) -> Machine:
        """Return the machine that is to run it."""
        rng = np.random.default_rng(self.image)
        machine = programs.random_memories(self.config, rng)
        if self.image % 2:
            edges.extreme(machine, rng)
        machine.program[:] = isa.Opcode.HALT
        for slot, d in enumerate(self.layers, self.slot):
            words = isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, d)
            machine.program[slot * isa.SLOT_WORDS :][: isa.DESCRIPTOR_WORDS] = words
        return machine

    def __str__(self) -> str:
        lines = [f"{self.config}, image {self.image}, from slot {self.slot}, {self.error}"]
        return "\n".join([*lines, *(str({name: value for name, value in d.items() if value}) for d in self.layers)])


def draw(rng: np.random.Generator, config: ArrayConfig | None = None) -> Case:
    """Return a random program for an array, or for any of them."""
    config = config or ARRAYS[rng.integers(len(ARRAYS))]
    count = int(rng.choice([0, 1, 2, 3, 5, MOST_LAYERS], p=[0.01, 0.29, 0.2, 0.2, 0.2, 0.1]))
    layers = tuple(edges.to_edges(d, config, rng) for d in programs.random_layers(config, rng, count))
    slot = int(rng.integers(config.slots - count)) if rng.random() < 0.3 else 0
    case = Case(config, layers, slot, int(rng.integers(1 << 30)))
    if not layers or rng.random() < 0.85:
        return case
    if rng.random() < 0.1:
        return replace(case, slot=config.slots - count, error="PC_RANGE", what="end: PC_RANGE")
    wrong = edges.fault(layers[-1], config, rng)
    if wrong is None:
        return case
    return replace(case, layers=(*layers[:-1], wrong[0]), error=wrong[1], what=f"{wrong[2]}: {wrong[1]}")


def memories(driver: Driver, machine: Machine) -> None:
    """Compare the memories that no program writes, where the host can read them."""
    config = machine.config
    if not config.monitor:
        return
    images = [
        (isa.Region.PROGRAM, machine.program.reshape(config.slots, -1), 4 * isa.SLOT_WORDS),
        (isa.Region.PARAM, machine.params, config.param_stride_bytes),
        (isa.Region.WEIGHT, machine.weights, config.weight_stride_bytes),
        (isa.Region.TABLE, machine.tables, isa.TABLE_ENTRIES),
    ]
    for region, image, stride in images:
        if not image.size:
            continue
        words = driver.bus.read(isa.bus_address(region, 0), len(image) * stride // 4)
        found = words.view(image.dtype).reshape(len(image), -1)[:, : image.shape[1]]
        assert (found == image).all(), f"{region.name} has changed"


def run(case: Case) -> list[str]:
    """Run a program on machine and core; return its bins."""
    driver, machine = core(case.config), case.machine()
    try:
        return _run(case, driver, machine)
    except BaseException:
        driver.bus.reset()
        raise


def _run(case: Case, driver: Driver, machine: Machine) -> list[str]:
    config, seen = case.config, []

    def ended(slot: int) -> None:
        d = isa.complete(case.layers[slot - case.slot])
        first, count = edges.runs(d, config)["ofm"]
        written = machine.act[first[:, None] + np.arange(count)]
        before = isa.complete(case.layers[slot - case.slot - 1]) if slot > case.slot else None
        seen.append(coverage.Seen(config, d, before, int(written.min()), int(written.max())))

    bins = {f"array: {ARRAYS.index(config)}", f"layers: {('none', 'one', 'several')[min(len(case.layers), 2)]}"}
    if case.error == "NONE":
        predicted = compare(driver, machine, slot=case.slot, on_layer=ended)
        counters = driver.counters()
        bins |= {f"stall: {name}" for name, count in counters.items() if count}
        assert len(predicted.layers) == len(case.layers)
    else:
        _fails(case, driver, machine, ended)
        bins.add(f"error: {case.what}")
    memories(driver, machine)
    return sorted(bins.union(*(coverage.of_layer(layer) for layer in seen)))


def _fails(case: Case, driver: Driver, machine: Machine, ended) -> None:
    """Run a program that stops with an error; the last layer's outputs are undefined then."""
    load(driver, machine)
    status = machine.run(case.slot, on_layer=ended)
    last = case.slot + len(case.layers) - 1
    assert (status.error.name, status.slot) == (case.error, last), status
    name = "NONE"
    try:
        driver.start(case.slot, _most(case) + SPARE_CYCLES)
    except DeviceError as error:
        name = str(error).rsplit(": ", 1)[-1]
    slot, early = driver._register("pc"), case.layers[-1]["early"] and case.error.endswith("_RANGE")
    assert name == case.error, f"{name} in slot {slot}, not {case.error}"
    slots = {last, last - 1} if early else {last}
    assert slot in slots, f"{name} in slot {slot}, not {last}"
    kept = np.ones(case.config.act_bytes, bool)
    if case.error in ("ACT_RANGE", "WEIGHT_RANGE", "PARAM_RANGE"):
        first, count = edges.runs(case.layers[-1], case.config)["ofm"]
        reach = (first[:, None] + np.arange(count)).reshape(-1)
        kept[reach[reach < case.config.act_bytes]] = False
        if slot < last:  # nor has the layer before ended
            first, count = edges.runs(case.layers[-2], case.config)["ofm"]
            kept[(first[:, None] + np.arange(count)).reshape(-1)] = False
    wrong = np.flatnonzero((driver.read_act(0, case.config.act_bytes) != machine.act) & kept)
    assert not wrong.size, f"{wrong.size} bytes differ, first at {wrong[0]}"
    driver.clear()


def _most(case: Case) -> int:
    sound = case.layers if case.error.endswith("_RANGE") else case.layers[:-1]
    return timing.predict([*sound, isa.complete({"opcode": isa.Opcode.HALT})], case.config).total


def on_core(rng: np.random.Generator) -> list[str]:
    """Run a random program on machine and core."""
    return run(draw(rng))


# Shrinking


def shrunk(case: Case) -> tuple[Case, str]:
    """Return a program that fails as long as nothing is taken away, and how: no layer, no part of a field's value."""
    said = failure(case)
    assert said is not None, "it doesn't fail"

    def fails(smaller: Case) -> bool:
        nonlocal case, said
        how = failure(smaller)
        if how is not None:
            case, said = smaller, how
        return how is not None

    before = None
    while case != before:
        before = case
        for index in reversed(range(len(case.layers) - (case.error != "NONE"))):
            fails(replace(case, layers=case.layers[:index] + case.layers[index + 1 :]))
        if case.error != "PC_RANGE":
            fails(replace(case, slot=0))
        for index in range(len(case.layers)):
            for field in isa.DESCRIPTOR:
                for value in _values(field, case.layers[index][field.name]):
                    changed = case.layers[index] | {field.name: value}
                    if fails(replace(case, layers=(*case.layers[:index], changed, *case.layers[index + 1 :]))):
                        break
    return case, said


def failure(case: Case) -> str | None:
    """Return how a program fails, None where it doesn't or isn't what was meant: its errors, its order of accesses."""
    status = case.machine().run(case.slot)
    sound = case.layers[: status.slot - case.slot]
    if status.error.name != case.error or not edges.defined(sound, case.config):
        return None
    try:
        run(case)
    except (AssertionError, DeviceError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _values(field: isa.Field, value: int) -> Sequence[int]:
    """Return the simpler values of a field that holds `value`."""
    if field.name == "opcode":
        return ()
    simplest = {"lo": -128, "hi": 127, "add_lo": -128, "add_hi": 127}.get(field.name, int(field.nonzero))
    between = [] if field.width == 1 or field.name in ("lo", "hi") else [value // 2, value - 1]
    smaller = [other for other in between if simplest < other < value]
    return [] if value == simplest else [simplest, *smaller]


def explain(rng: np.random.Generator) -> str:
    """Return the smallest program that fails as the one drawn does."""
    case, said = shrunk(draw(rng))
    return f"{said}\n{case}"


CAMPAIGN = Campaign("programs", "random programs on machine and RTL", 4, on_core, build, explain)
