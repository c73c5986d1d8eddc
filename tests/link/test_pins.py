"""A network through the serial port, pins to pins: the driver, the frames, the UARTs, the accelerator."""

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


@pytest.mark.parametrize("mismatch", [0.02])
def test_a_network_runs_over_the_line(expected, mismatch):
    program, images, (logits,) = expected
    transport = open_transport(program.config, mismatch=mismatch)
    link = Link(transport, clock=transport.clock, timeout_s=0.005)
    with Driver(link, program.config) as driver:
        accelerator = Accelerator(program, driver)
        for image, row in zip(images, logits, strict=True):
            out = accelerator.run({"image": image[np.newaxis]})
            assert np.array_equal(out["logits"][0], row)
            assert accelerator.counters["cycles"] == hwq.estimate(program).cycles_predicted
    assert link.resent == 0


def test_another_configuration_is_refused_before_anything_is_written(expected):
    transport = open_transport(load_arch("sim-4x4"))
    with pytest.raises(ProgramError, match="was built from another configuration than 'ecp5-8x16'"):
        Driver(Link(transport, clock=transport.clock), load_arch("ecp5-8x16"))
    transport.close()
