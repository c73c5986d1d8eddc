"""Parity of memories: the same bytes and cycles, no false alarm, every inverted bit found and the core sound after."""

from collections import Counter

import numpy as np
import pytest

from hwq import isa
from hwq.abft import CheckedProduct, with_row_checksums
from hwq.driver import Driver
from hwq.errors import ParityError
from hwq.runtime import Accelerator
from tests import programs
from tests.campaigns.soft_errors import (
    BARE,
    CHECKED,
    MEMORIES,
    SMALL,
    Run,
    core,
    every_bit,
    located,
    memories,
    read,
    small_machine,
)
from tests.rtl.lockstep import compare, load

PROGRAMS = 40

PARITY_BYTE = 9
BYTES = {"act": 256, "weights": 64 * 4, "params": 8 * 8, "program": 2 * 32 * 4}
"""Of `SMALL`'s memories."""


@pytest.mark.parametrize("config", CHECKED, ids=lambda config: config.name)
@pytest.mark.xdist_group("verilator")
def test_random_programs_in_every_byte_and_cycle(config):
    for seed in range(PROGRAMS):
        rng = np.random.default_rng(seed)
        compare(core(config), programs.random_machine(config, rng, int(rng.integers(1, 9))))


@pytest.mark.xdist_group("verilator")
def test_memory_that_was_never_written_is_read_without_an_alarm():
    from sim.faults import open_bus

    with Driver(open_bus(SMALL), SMALL) as driver:
        machine = small_machine(SMALL, np.random.default_rng(0))
        driver.load_program(machine.program[: isa.SLOT_WORDS])
        assert driver.start() == driver.counters()
        assert driver.read_act(0, SMALL.act_bytes).shape == (SMALL.act_bytes,)
        for region in (isa.Region.PROGRAM, isa.Region.PARAM, isa.Region.WEIGHT):
            driver.bus.read(isa.bus_address(region, 0), 4 * SMALL.act_bytes)  # and what lies beyond them
        assert driver._register("status") == isa.STATUS_DONE


@pytest.mark.parametrize("part", MEMORIES)
@pytest.mark.xdist_group("verilator")
def test_every_bit_that_is_read_is_found(part):
    machine = small_machine(SMALL, np.random.default_rng(1))
    run, wanted = Run(machine), {located(SMALL, part, place) for place in read(machine)[part]}
    faults = list(every_bit(SMALL, part))
    assert len(faults) == PARITY_BYTE * BYTES[part], "all of the memory"
    for fault in faults:
        assert run.outcome(fault) == ("detected" if (fault.memory, fault.row) in wanted else "masked"), fault
    used = len(wanted) / len({(fault.memory, fault.row) for fault in faults})
    assert used == {"weights": 1, "params": 1, "program": 24 / 32, "act": 122 / 256}[part]


@pytest.mark.xdist_group("verilator")
def test_without_parity_bits_change_results_in_silence():
    run = Run(small_machine(BARE, np.random.default_rng(1)))
    found = {part: Counter(run.outcome(fault) for fault in [*every_bit(BARE, part)][::3]) for part in MEMORIES}
    assert all(outcomes["silent"] and outcomes["masked"] and not outcomes["detected"] for outcomes in found.values())


@pytest.mark.parametrize(
    ("memory", "row", "slot"),
    [("weights.memory", 5, 0), ("params.memory", 3, 0), ("program", 0, 0), ("program", 33, 1)],
)
@pytest.mark.xdist_group("verilator")
def test_the_slot_that_read_it_is_named(memory, row, slot):
    driver, machine = core(SMALL), small_machine(SMALL, np.random.default_rng(2))
    load(driver, machine)
    driver.bus.storage[memory].flip(row, 7)
    with pytest.raises(ParityError, match=f"stopped in slot {slot}: MEMORY_PARITY") as error:
        driver.start()
    assert error.value.slot == slot
    compare(driver, machine)


@pytest.mark.xdist_group("verilator")
def test_the_host_is_told_of_bad_bytes_that_it_reads():
    driver, machine = core(SMALL), small_machine(SMALL, np.random.default_rng(3))
    compare(driver, machine)
    for memory in ("act.bank_2", "weights.memory", "params.memory", "program"):
        driver.bus.storage[memory].flip(9 if memory == "act.bank_2" else 4, 1)
    assert driver.read_act(0, 36).shape == (36,)
    with pytest.raises(ParityError, match=r"in bytes 36\.\.39"):
        driver.read_act(38, 1)
    assert driver.read_act(40, 4).shape == (4,)
    strides = {isa.Region.WEIGHT: SMALL.weight_stride_bytes, isa.Region.PARAM: SMALL.param_stride_bytes}
    for region, stride in (strides | {isa.Region.PROGRAM: 4}).items():
        for word, code in ((3, 0), (4, isa.ErrorCode.MEMORY_PARITY)):
            driver.bus.read(isa.bus_address(region, word * stride), 1)
            assert driver._register("status") >> isa.STATUS_ERROR_SHIFT == code, (region, word)
        driver.clear()
    compare(driver, machine)


@pytest.mark.xdist_group("verilator")
def test_a_session_loads_its_page_again():
    rng = np.random.default_rng(4)
    weight, a = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((12, 7), (5, 12)))
    product = CheckedProduct(weight, 5, CHECKED[1])
    driver, feeds = core(CHECKED[1]), {"a": with_row_checksums(a)}
    accelerator = Accelerator(product.program, driver)
    wanted = accelerator.run(feeds)["sums"]
    (weights,) = memories(CHECKED[1], "weights")
    driver.bus.storage[weights].flip(product.program.descriptors(0)[0]["weight_base"], 3)
    with pytest.raises(ParityError):
        accelerator.run(feeds)
    assert (accelerator.run(feeds)["sums"] == wanted).all()
    assert (wanted[:5, :7] == a.astype(int) @ weight.astype(int)).all()
