"""A network through the serial port, pins to pins: the driver, the frames, the UARTs, the accelerator."""

import random

import numpy as np
import pytest

import hwq
from boards.link.client import Link
from hwq import demo
from hwq.config import load_arch
from hwq.driver import Driver
from hwq.errors import MissingToolError, ProgramError
from hwq.runtime import Accelerator
from sim.pins_bus import open_transport
from sim.toolchain import find_compiler, find_verilator
from tests.link.lines import Line

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("pins")]


@pytest.fixture(scope="module")
def expected():
    try:
        find_verilator(), find_compiler()
    except MissingToolError as error:
        pytest.skip(str(error))
    images, _ = demo.load_samples()
    program = hwq.compile(demo.model_path(), "sim-4x4")
    return (
        program,
        images[:1],
        hwq.InferenceSession(demo.model_path(), target="reference").run(None, {"image": images[:1]}),
    )


def test_a_network_runs_over_the_line_between_clocks_two_percent_apart(expected):
    program, images, (logits,) = expected
    transport = open_transport(program.config, mismatch=0.02)
    link = Link(transport, clock=transport.clock, timeout_s=0.005)
    with Driver(link, program.config) as driver:
        accelerator = Accelerator(program, driver)
        for image, row in zip(images, logits, strict=True):
            out = accelerator.run({"image": image[np.newaxis]})
            assert np.array_equal(out["logits"][0], row)
            assert accelerator.counters["cycles"] == hwq.estimate(program).cycles_predicted
    assert link.resent == 0


class NoisyPins:
    """Pins at the end of lines with bit errors."""

    def __init__(self, pins, draw, bit_errors):
        self.pins, self.byte_s, self.clock, self.close = pins, pins.byte_s, pins.clock, pins.close
        self.there, self.back = (Line(draw, bit_errors=bit_errors) for _ in range(2))

    def write(self, data):
        self.there.send(data)
        self.pins.write(self.there.take())

    def read(self, timeout_s):
        self.back.send(self.pins.read(timeout_s))
        return self.back.take()


def test_a_network_runs_at_a_bit_error_rate_of_1e_4(expected):
    program, images, (logits,) = expected
    transport = NoisyPins(open_transport(program.config), random.Random(0), 1e-4)
    link = Link(transport, session=1, clock=transport.clock, timeout_s=0.005)
    with Driver(link, program.config) as driver:
        out = Accelerator(program, driver).run({"image": images[:1]})
    assert np.array_equal(out["logits"], logits[:1])
    assert link.resent > 20


def test_another_configuration_is_refused_before_anything_is_written(expected):
    transport = open_transport(load_arch("sim-4x4"))
    with pytest.raises(ProgramError, match="was built from another configuration than 'ecp5-8x16'"):
        Driver(Link(transport, clock=transport.clock), load_arch("ecp5-8x16"))
    transport.close()
