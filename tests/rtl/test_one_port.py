"""Cores whose activation memory has one port: every byte, every cycle, every error."""

import numpy as np
import pytest

from hwq import isa
from hwq.errors import DeviceError
from tests import programs
from tests.rtl.lockstep import compare, load
from tests.test_machine import LEGAL, ONE_PORT_CASES, blank

PROGRAMS = 80

CLAMPS = {"lo": -128, "hi": 127, "factor_a": 1, "add_lo": -128, "add_hi": 127}


def one_port(rows, cols, **sizes):
    return programs.tiny(rows, cols, 4, 1, act_ports=1, **sizes)


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
    config = programs.tiny(4, 4, 4, 1, **programs.LEAST)
    driver = accelerator(config)
    for seed in range(PROGRAMS):
        rng = np.random.default_rng(seed)
        compare(driver, programs.random_machine(config, rng, int(rng.integers(1, 9))))
    machine = programs.random_machine(config, np.random.default_rng(0), 1)
    machine.act[:2048], machine.weights[:] = -128, -128  # sums beyond 24 bits
    layer = {"opcode": isa.Opcode.CONV, "row_pixels": 4, "pixels": 4, "taps_y": 1, "taps_x": 1, "span": 1000}
    layer |= {
        "lo": -128,
        "hi": 127,
        "blocks": 1,
        "last_channels": 4,
        "ifm_x_step": 2,
        "ofm_base": 3000,
        "ofm_x_step": 4,
    }
    programs.set_program(machine, [layer])
    compare(driver, machine)
    programs.set_program(machine, [{"opcode": isa.Opcode.VECTOR}])
    load(driver, machine)
    assert machine.run().error is isa.ErrorCode.ILLEGAL_OPCODE
    with pytest.raises(DeviceError, match="slot 0: ILLEGAL_OPCODE"):
        driver.start(0)


@pytest.mark.xdist_group("verilator")
def test_the_smallest_core_keeps_to_its_memories(accelerator):
    cases = [case for case in ONE_PORT_CASES if "residual" not in case[0]]
    cases = [case for case in cases if case[0].get("opcode") != isa.Opcode.VECTOR]
    assert len(cases) > 10
    cases += [({"param_base": 127}, "NONE"), ({"param_base": 126, "last_channels": 2}, "NONE")]
    cases += [({"param_base": 127, "last_channels": 2}, "PARAM_RANGE"), ({"weight_base": 2048}, "WEIGHT_RANGE")]
    cases += [({"truncate": 1}, "ILLEGAL_FIELD"), ({"pixels": 1 << 14}, "ILLEGAL_FIELD")]
    for changes, error in cases:
        machine = blank(LEGAL | {"lo": -128, "hi": 127} | changes, slots=16, **programs.LEAST)
        driver = accelerator(machine.config)
        machine.act[:] = np.arange(machine.act.size) % 251
        load(driver, machine)
        if error == "NONE":
            compare(driver, machine, changes)
        else:
            assert machine.run().error.name == error, changes
            with pytest.raises(DeviceError, match=f"slot 0: {error}"):
                driver.start(0)
            driver.clear()
        compare(driver, programs.random_machine(machine.config, np.random.default_rng(3), 3), changes)


@pytest.mark.parametrize("sizes", [{}, programs.LEAST], ids=["one port", "smallest"])
@pytest.mark.parametrize(
    "changes", [{"ofm_base": 1, "last_channels": 3}, {"ofm_base": 4094, "last_channels": 3}], ids=str
)
@pytest.mark.xdist_group("verilator")
def test_a_word_in_a_wrong_place_is_not_written(accelerator, sizes, changes):
    machine = blank(LEGAL | {"lo": -128, "hi": 127} | changes, slots=16, **({"act_ports": 1} | sizes))
    driver = accelerator(machine.config)
    machine.act[:] = np.arange(machine.act.size) % 251
    load(driver, machine)
    with pytest.raises(DeviceError, match="slot 0: ACT_RANGE"):
        driver.start(0)
    assert driver.read_act(0, machine.act.size).tolist() == machine.act.tolist()
    driver.clear()


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
def test_an_aborted_vector_layer_leaves_the_port_to_the_host(accelerator):
    config = one_port(4, 4, tables=3)
    driver = accelerator(config)
    layer = CLAMPS | {
        "opcode": isa.Opcode.VECTOR,
        "row_pixels": 256,
        "pixels": 256,
        "taps_y": 1,
        "taps_x": 1,
        "span": 1,
    }
    layer |= {"blocks": 1, "last_channels": 1, "ifm_x_step": 1, "ofm_base": 2048, "ofm_x_step": 1}
    machine = programs.random_memories(config, np.random.default_rng(0))
    programs.set_program(machine, [layer])
    for delay in range(60, 160):
        load(driver, machine)
        driver._set_register("pc", 0)
        driver._set_register("control", isa.CONTROL_START)
        assert not driver.bus.wait(delay)
        driver.clear()
        seen = [driver.read_act(0, 256).tolist() for _ in range(2)]
        assert seen == [machine.act[:256].tolist()] * 2, f"aborted after {delay} cycles"
