"""Cores whose activation memory has one port: every byte, every cycle, every error."""

import numpy as np
import pytest

from hwq import isa, timing
from hwq.errors import DeviceError
from tests import programs
from tests.rtl.test_core import load
from tests.test_machine import LEGAL, ONE_PORT_CASES, blank

PROGRAMS = 80

CLAMPS = {"lo": -128, "hi": 127, "factor_a": 1, "add_lo": -128, "add_hi": 127}


def one_port(rows, cols, **sizes):
    return programs.tiny(rows, cols, 4, 1, act_ports=1, **sizes)


def compare(driver, machine):
    """Run a program on both; compare every byte and every layer's cycles."""
    load(driver, machine)
    predicted = timing.predict(programs.decoded(machine), machine.config)
    assert machine.run().error is isa.ErrorCode.NONE
    counters = driver.start(0)
    wrong = np.flatnonzero(driver.read_act(0, machine.config.act_bytes) != machine.act)
    assert not wrong.size, f"{wrong.size} bytes differ, first at {wrong[0]}"
    assert counters["cycles"] == predicted.total
    if machine.config.monitor:
        assert driver.profile(len(predicted.layers)) == [layer.cycles for layer in predicted.layers]
        assert counters["cycles"] == sum(count for name, count in counters.items() if name != "cycles")
    else:
        assert list(counters) == ["cycles"]
        assert driver.profile(1) == []


@pytest.mark.parametrize(
    ("shape", "adder"), [((4, 4), 0), ((4, 4), 1), ((1, 2), 1), ((3, 2), 0), ((6, 2), 1), ((16, 4), 1)], ids=str
)
@pytest.mark.xdist_group("verilator")
def test_random_programs_in_every_byte_and_cycle(accelerator, shape, adder):
    config = one_port(*shape, adder=adder)
    driver = accelerator(config)
    for seed in range(PROGRAMS):
        rng = np.random.default_rng(seed)
        compare(driver, programs.random_machine(config, rng, int(rng.integers(1, 9))))


@pytest.mark.xdist_group("verilator")
def test_the_smallest_core(accelerator):
    config = one_port(4, 4, adder=0, vector=0, monitor=0, count_bits=10, sum_bits=24)
    driver = accelerator(config)
    for seed in range(PROGRAMS):
        rng = np.random.default_rng(seed)
        compare(driver, programs.random_machine(config, rng, int(rng.integers(1, 9))))
    machine = programs.random_machine(config, np.random.default_rng(0), 1)
    programs.set_program(machine, [{"opcode": isa.Opcode.VECTOR}])
    load(driver, machine)
    assert machine.run().error is isa.ErrorCode.ILLEGAL_OPCODE
    with pytest.raises(DeviceError, match="slot 0: ILLEGAL_OPCODE"):
        driver.start(0)


@pytest.mark.xdist_group("verilator")
def test_words_of_one_byte_wait_while_long_runs_read(accelerator):
    config = one_port(4, 4)
    driver = accelerator(config)
    quick = {"opcode": isa.Opcode.CONV, "row_pixels": 256, "pixels": 256, "taps_y": 1, "taps_x": 1, "span": 1}
    long = quick | {"opcode": isa.Opcode.DEPTHWISE, "row_pixels": 32, "pixels": 64, "taps_x": 2, "span": 40}
    for d in (quick, long, long | {"taps_x": 1, "pixels": 32}):
        machine = programs.random_memories(config, np.random.default_rng(d["span"]))
        layer = d | CLAMPS | {"blocks": 1, "last_channels": 1, "ifm_x_step": 1, "ofm_base": 3000, "ofm_x_step": 1}
        programs.set_program(machine, [layer, layer | {"ofm_base": 3500}])
        compare(driver, machine)


@pytest.mark.parametrize(("changes", "error"), ONE_PORT_CASES)
@pytest.mark.xdist_group("verilator")
def test_errors_have_the_machine_s_code_and_the_core_runs_again(accelerator, changes, error):
    machine = blank(LEGAL | CLAMPS | changes, slots=16, act_ports=1)
    driver = accelerator(machine.config)
    machine.act[:] = np.arange(machine.act.size) % 251
    load(driver, machine)
    if error == "NONE":
        compare(driver, machine)
    else:
        with pytest.raises(DeviceError, match=f"slot 0: {error}"):
            driver.start(0)
        driver.clear()
    compare(driver, programs.random_machine(machine.config, np.random.default_rng(3), 3))


@pytest.mark.xdist_group("verilator")
def test_abort_in_mid_layer_leaves_a_core_that_runs_again(accelerator):
    config = one_port(4, 4)
    driver = accelerator(config)
    for delay in range(0, 400, 23):
        machine = programs.random_machine(config, np.random.default_rng(delay), 4)
        load(driver, machine)
        driver._set_register("pc", 0)
        driver._set_register("control", isa.CONTROL_START)
        driver.bus.wait(delay)
        driver.clear()
        compare(driver, machine)
