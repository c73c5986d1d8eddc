"""The real accelerator through the driver: both simulators agree with the machine and with each other."""

import importlib

import numpy as np
import pytest

from hwq import isa, timing
from hwq.driver import Driver
from tests import programs

SEED = 4


@pytest.mark.parametrize("simulator", ["amaranth", "verilator"])
def test_a_program_leaves_what_the_machine_leaves(simulator, request):
    if simulator == "verilator":
        request.getfixturevalue("tools")
    config = programs.tiny(2, 4, 4, 2, act_bytes=512, weight_words=128, param_words=32, slots=4)
    machine = programs.random_machine(config, np.random.default_rng(SEED), layers=2)
    bus = importlib.import_module(f"sim.{simulator}_bus").open_bus(config)
    with Driver(bus, config) as driver:
        programs.load(driver, machine)
        counters = driver.start(0)
        assert machine.run().error is isa.ErrorCode.NONE
        assert np.array_equal(driver.read_act(0, config.act_bytes), machine.act)
        predicted = timing.predict(programs.decoded(machine), config)
        assert counters["cycles"] == predicted.total
        assert driver.profile(len(predicted.layers)) == [layer.cycles for layer in predicted.layers]
