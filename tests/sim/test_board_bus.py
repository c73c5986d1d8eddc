"""A board's whole top, pins to pins at its own baud rate: clock, reset, pads, link and accelerator."""

from pathlib import Path

import numpy as np
import pytest

import hwq
from boards.link.client import Link
from boards.registry import find
from hwq import demo, isa, timing
from hwq.driver import Driver
from hwq.ir import Graph
from hwq.runtime import Accelerator
from sim.board_bus import open_board
from tests import programs
from tests.test_mesh_parts import network

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("pins"), pytest.mark.usefixtures("tools")]


def small_network() -> tuple[Graph, dict[str, np.ndarray]]:
    """Return three convolutions, one of them depthwise, and an image."""
    layers = [(6, 1, (3, 3), {"pads": [1] * 4}), (6, 6, (3, 3), {"strides": [2, 2]}), (5, 1, (1, 1), {})]
    image = np.random.default_rng(2).integers(-128, 128, (1, 3, 7, 6), np.int8)
    return network(layers, (1, 3, 7, 6)), {"x": image}


def digits() -> tuple[Path, dict[str, np.ndarray]]:
    """Return the bundled network and an image."""
    return demo.model_path(), {"image": demo.load_samples()[0][:1]}


@pytest.mark.parametrize("given", [small_network, pytest.param(digits, marks=pytest.mark.large)])
def test_a_network_runs_on_a_board_from_pin_to_pin(given):
    model, feeds = given()
    program = hwq.compile(model, "sim-4x4")
    expected = hwq.InferenceSession(model, target="reference").run(None, feeds)
    transport = open_board("icebreaker", program.config)
    assert transport.byte_s == pytest.approx(10 / find("icebreaker").baud)
    link = Link(transport, clock=transport.clock, timeout_s=0.005)
    with Driver(link, program.config) as driver:
        accelerator = Accelerator(program, driver)
        out = accelerator.run(feeds)
    assert all(np.array_equal(*pair) for pair in zip(out.values(), expected, strict=True))
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
