"""A board's whole top, pins to pins at its own baud rate: clock, reset, pads, link and accelerator."""

import numpy as np
import pytest

import hwq
from boards.link.client import Link
from boards.registry import find
from hwq import demo, isa, timing
from hwq.driver import Driver
from hwq.runtime import Accelerator
from sim.board_bus import open_board
from tests import programs

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("pins"), pytest.mark.usefixtures("tools")]


def test_a_network_runs_on_a_board_from_pin_to_pin():
    images, _ = demo.load_samples()
    program = hwq.compile(demo.model_path(), "sim-4x4")
    (logits,) = hwq.InferenceSession(demo.model_path(), target="reference").run(None, {"image": images[:1]})
    transport = open_board("icebreaker", program.config)
    assert transport.byte_s == pytest.approx(10 / find("icebreaker").baud)
    link = Link(transport, clock=transport.clock, timeout_s=0.005)
    with Driver(link, program.config) as driver:
        accelerator = Accelerator(program, driver)
        out = accelerator.run({"image": images[:1]})
    assert np.array_equal(out["logits"], logits)
    assert accelerator.counters["cycles"] == hwq.estimate(program).cycles_predicted
    assert link.resent == 0


def test_a_program_runs_on_an_ecp5_board_from_pin_to_pin():
    config = programs.tiny(2, 4, 4, 2, act_bytes=512, weight_words=128, param_words=32, slots=4)
    machine = programs.random_machine(config, np.random.default_rng(4), layers=2)
    transport = open_board("ulx3s", config)
    link = Link(transport, clock=transport.clock, timeout_s=0.005)
    with Driver(link, config) as driver:
        programs.load(driver, machine)
        counters = driver.start(0)
        assert machine.run().error is isa.ErrorCode.NONE
        assert np.array_equal(driver.read_act(0, config.act_bytes), machine.act)
    assert counters["cycles"] == timing.predict(programs.decoded(machine), config).total
    assert link.resent == 0
