"""Both simulated buses, and the driver on them, against the stand-in accelerator of conftest.py."""

from __future__ import annotations

import numpy as np
import pytest

from hwq import isa
from hwq.driver import Driver
from hwq.errors import DeviceError, ProgramError

RNG_SEED = 20


@pytest.fixture
def driver(open_dummy, dummy):
    with Driver(open_dummy(), dummy.config) as driver:
        yield driver


def random_words(count):
    return np.random.default_rng(RNG_SEED).integers(0, 1 << 32, count, np.uint32)


@pytest.mark.parametrize("wait_cycles", [0, 1, 5])
def test_words_come_back_from_every_region(open_dummy, dummy, wait_cycles):
    bus = open_dummy(wait_cycles)
    images = {region: random_words(count) + np.uint32(region) for region, count in dummy.words.items()}
    for region, image in images.items():
        bus.write(isa.bus_address(region, 0), image)
    for region, image in images.items():
        assert np.array_equal(bus.read(isa.bus_address(region, 0), image.size), image), region.name
    bus.close()


def test_a_word_takes_two_cycles_and_one_more_per_wait(open_dummy):
    for wait_cycles in (0, 3):
        bus = open_dummy(wait_cycles)
        before = bus.cycles
        bus.write(isa.bus_address(isa.Region.ACT, 0), random_words(10))
        bus.read(isa.bus_address(isa.Region.ACT, 0), 10)
        assert bus.cycles - before == 20 * (2 + wait_cycles)
        bus.close()


def test_a_transfer_leaves_its_neighbours(open_dummy):
    bus = open_dummy()
    base = isa.bus_address(isa.Region.ACT, 0)
    image = random_words(8)
    bus.write(base, image)
    bus.write(base + 12, np.array([1, 2], np.uint32))
    image[3:5] = 1, 2
    assert np.array_equal(bus.read(base, 8), image)
    bus.close()


def test_wait_counts_cycles_and_times_out(open_dummy):
    bus = open_dummy()
    registers = {name: isa.bus_address(isa.Region.CSR, 4 * index) for name, index in isa.REGISTER_INDEX.items()}
    bus.write(registers["watchdog"], np.array([50], np.uint32))
    bus.write(registers["control"], np.array([isa.CONTROL_START], np.uint32))
    before = bus.cycles
    assert not bus.wait(20)
    assert bus.cycles - before == 20
    assert bus.wait(1000)
    assert 48 <= bus.cycles - before <= 50
    bus.close()


def test_a_bus_that_never_acknowledges_is_an_error(open_dummy):
    bus = open_dummy(wait_cycles=5000)
    with pytest.raises(DeviceError, match="never acknowledged address 0x4000008"):
        bus.write(isa.bus_address(isa.Region.ACT, 8), random_words(2))
    bus.close()


def test_open_refuses_what_is_no_accelerator(open_dummy, dummy):
    bus = open_dummy()
    honest = bus.read
    bus.read = lambda address, count: honest(address + 4, count)
    with pytest.raises(DeviceError, match="No accelerator answers on the bus"):
        Driver(bus, dummy.config)


def test_open_refuses_another_configuration(open_dummy, dummy):
    with pytest.raises(
        ProgramError, match=f"another configuration than 'dummy': its digest is 00000abc, not {dummy.digest:08x}"
    ):
        Driver(open_dummy(digest=0xABC), dummy.config)


def test_images_land_where_the_memory_map_says(driver, dummy):
    rng = np.random.default_rng(RNG_SEED)
    config = dummy.config
    program = random_words(3 * isa.SLOT_WORDS)
    params = rng.integers(0, 1 << 32, (5, config.lanes * isa.PARAM_LANE_WORDS), np.uint32)
    weights = rng.integers(-128, 128, (7, config.cols), np.int8)
    table = rng.integers(-128, 128, (1, isa.TABLE_ENTRIES), np.int8)
    driver.load_program(program)
    driver.load_params(params, first=2)
    driver.load_weights(weights, first=3)
    driver.load_tables(table, first=1)
    read = driver.bus.read
    assert np.array_equal(read(isa.bus_address(isa.Region.PROGRAM, 0), program.size), program)
    for i, lanes in enumerate(params):
        for j, word in enumerate(lanes):
            assert read(isa.bus_address(isa.Region.PARAM, (2 + i) * config.param_stride_bytes + 4 * j), 1) == word
    for i, row in enumerate(weights):
        word = int(read(isa.bus_address(isa.Region.WEIGHT, (3 + i) * config.weight_stride_bytes), 1)[0])
        assert word.to_bytes(4, "little") == row.tobytes() + b"\0"
    assert read(isa.bus_address(isa.Region.TABLE, isa.TABLE_ENTRIES), 64).tobytes() == table.tobytes()


@pytest.mark.parametrize("address", range(4))
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 9])
def test_activations_at_any_alignment(driver, address, count):
    rng = np.random.default_rng(RNG_SEED)
    image = rng.integers(-128, 128, 24, np.int8)
    driver.write_act(0, image)
    data = rng.integers(-128, 128, count, np.int8)
    driver.write_act(address + 4, data)
    image[address + 4 : address + 4 + count] = data
    assert np.array_equal(driver.read_act(0, 24), image)
    assert np.array_equal(driver.read_act(address + 4, count), data)


def test_start_returns_the_counters(driver):
    driver.set_watchdog(37)
    counters = driver.start(0)
    assert counters["cycles"] == 37
    assert counters == driver.counters()
    assert counters["cycles_setup"] == isa.REGISTER_INDEX["cycles_setup"]


def test_start_can_follow_a_start(driver):
    for cycles in (30, 5, 90):
        driver.set_watchdog(cycles)
        assert driver.start(0)["cycles"] == cycles


@pytest.mark.parametrize("code", [isa.ErrorCode.ILLEGAL_OPCODE, isa.ErrorCode.ACT_RANGE])
def test_an_error_names_code_and_slot(driver, code):
    with pytest.raises(DeviceError, match=rf"stopped in slot {code:d}: {code.name}$"):
        driver.start(code)


def test_a_run_that_never_stops_times_out(driver):
    driver.set_watchdog(10_000)
    with pytest.raises(DeviceError, match=r"still in slot 0 after 100 cycles \(status 0x1\)"):
        driver.start(0, max_cycles=100)
    driver.clear()
    driver.set_watchdog(10)
    assert driver.start(0)["cycles"] == 10


def test_profile_reads_one_word_a_slot(driver):
    driver.bus.write(isa.bus_address(isa.Region.PROFILE, 0), np.arange(4, dtype=np.uint32))
    assert driver.profile(3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda d: d.load_program(np.zeros(33, np.uint32)), "whole slots of 32 words, not 33"),
        (lambda d: d.load_program(np.zeros(6 * 32, np.uint32)), "program memory has 5 slots, 6 are needed"),
        (lambda d: d.load_params(np.zeros((1, 3), np.uint32)), r"param image must be \(n, 2\), not \(1, 3\)"),
        (lambda d: d.load_params(np.zeros((2, 2), np.uint32), first=127), "param memory has 128 words, 129 are needed"),
        (lambda d: d.load_weights(np.zeros((257, 3), np.int8)), "weight memory has 256 words, 257 are needed"),
        (lambda d: d.load_tables(np.zeros((1, 255), np.int8)), r"table image must be \(n, 256\), not \(1, 255\)"),
        (lambda d: d.load_tables(np.zeros((2, 256), np.int8), first=1), "table memory has 2 words, 3 are needed"),
        (lambda d: d.write_act(1020, np.zeros(5, np.int8)), "activation memory has 1024 bytes, 1025 are needed"),
        (lambda d: d.read_act(1025, 0), "activation memory has 1024 bytes, 1025 are needed"),
        (lambda d: d.profile(6), "profile memory has 5 slots, 6 are needed"),
    ],
)
def test_what_does_not_fit_is_refused(driver, load, message):
    with pytest.raises(ProgramError, match=message):
        load(driver)


def test_a_slot_outside_program_memory_is_refused(driver):
    with pytest.raises(DeviceError, match="Slot 5 isn't in program memory, which has 5"):
        driver.start(5)
