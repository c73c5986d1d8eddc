"""What an array runs while its coverage is counted: programs good and bad, aborts, the watchdog, the bus, a network.

All of it is compared with the machine, as in the campaigns whose trials it takes.
"""

from __future__ import annotations

import functools

import numpy as np

import hwq
from hwq import demo, isa
from hwq.config import ArrayConfig
from hwq.driver import Driver
from hwq.errors import DeviceError
from hwq.runtime import Accelerator
from tests import programs
from tests.campaigns import cores, descriptors_core, random_programs
from tests.rtl.lockstep import compare, load

NUMBER = 6
"""Makes the trials' seeds their own."""

ERRORS = ("PC_RANGE", "WEIGHT_RANGE", "PARAM_RANGE", "ACT_RANGE", "ILLEGAL_FIELD", "ILLEGAL_OPCODE")


def run(driver: Driver, trials: int) -> None:
    """Run so many random programs, and of everything else a part of that."""
    for index in range(trials):
        trial(driver, index)


def trial(driver: Driver, index: int) -> None:
    """Run a random program, and after some of them something else."""
    rng = np.random.default_rng([NUMBER, index])
    with cores.instead(driver):
        random_programs.run(random_programs.draw(rng, driver.config))
        if index % 2 == 0:
            random_programs.run(failing(driver.config, rng, ERRORS[index // 2 % len(ERRORS)]))
        if index % 2 == 0:
            descriptors_core.trial(driver.config, rng)
        if index % 5 == 0:
            aborted(driver, rng)
            watched(driver, rng)
        if index % 10 == 0:
            moved(driver, rng)


def failing(config: ArrayConfig, rng: np.random.Generator, error: str) -> random_programs.Case:
    """Return a random program that ends with an error."""
    while (case := random_programs.draw(rng, config)).error != error:
        pass
    return case


def aborted(driver: Driver, rng: np.random.Generator) -> None:
    """Abort a program somewhere, and look at the core meanwhile; then run it whole."""
    machine = programs.random_machine(driver.config, rng, 4)
    load(driver, machine)
    driver._set_register("pc", 0)
    driver._set_register("control", isa.CONTROL_START)
    if not driver.bus.wait(int(rng.integers(800))):
        for region in isa.Region:  # a busy core's memories can't be seen or changed
            words = driver.bus.read(isa.bus_address(region, 0), 2)
            busy = driver._register("status") & isa.STATUS_BUSY
            assert region is isa.Region.CSR or not busy or not words.any(), region
        driver.load_program(np.full(isa.SLOT_WORDS, -1, np.int32).view(np.uint32))
    driver.clear()
    compare(driver, machine, "after an abort")


def watched(driver: Driver, rng: np.random.Generator) -> None:
    """Run a program under a watchdog so short that it may bite; then without."""
    machine = programs.random_machine(driver.config, rng, 4)
    load(driver, machine)
    driver.set_watchdog(int(rng.choice([1, 5, 20, 40, 1 << 31])))
    try:
        driver.start(0)
    except DeviceError as error:
        if not (driver.config.monitor and str(error).endswith("WATCHDOG")):
            raise
    driver.set_watchdog(0)
    driver.clear()
    compare(driver, machine, "after the watchdog")


def moved(driver: Driver, rng: np.random.Generator) -> None:
    """Write and read every word of every window, and words beyond them."""
    config = driver.config
    sizes = {
        isa.Region.PROGRAM: config.slots * isa.SLOT_WORDS,
        isa.Region.PARAM: config.param_words * config.param_stride_bytes // 4,
        isa.Region.WEIGHT: config.weight_words * config.weight_stride_bytes // 4,
        isa.Region.ACT: config.act_bytes // 4,
        isa.Region.TABLE: config.tables * isa.TABLE_ENTRIES // 4,
    }
    for region, size in sizes.items():
        for image in (rng.integers(0, 1 << 32, size, np.uint32), ~np.zeros(size, np.uint32), np.zeros(size, np.uint32)):
            driver.bus.write(isa.bus_address(region, 0), image)
            found = driver.bus.read(isa.bus_address(region, 0), size)
            if region is isa.Region.ACT or (config.monitor and region is isa.Region.PROGRAM):
                assert (found == image).all(), region.name
    for address in (0, 4 * len(isa.REGISTERS), isa.bus_address(isa.Region.PROFILE, 0), (1 << 28) - 64):
        driver.bus.read(address, 16)
    for address in (isa.bus_address(isa.Region.PROFILE, 0), (1 << 28) - 64):
        driver.bus.write(address, rng.integers(0, 1 << 32, 16, np.uint32))


@functools.cache
def _network(config: ArrayConfig):
    images, _ = demo.load_samples()
    (logits,) = hwq.InferenceSession(demo.model_path(), target="reference").run(None, {"image": images[:1]})
    return hwq.compile(demo.model_path(), config), images[:1], logits


def network(driver: Driver) -> None:
    """Run the bundled network, part by part where it doesn't fit whole."""
    program, image, logits = _network(driver.config)
    assert np.array_equal(Accelerator(program, driver).run({"image": image})["logits"], logits)
