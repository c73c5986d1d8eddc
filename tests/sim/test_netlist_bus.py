"""The synthesized netlist in the models of its cells: the machine's bytes, the predicted cycles."""

import numpy as np
import pytest

from hwq import isa, timing
from hwq.driver import Driver
from hwq.errors import HwqError
from sim.netlist_bus import open_bus
from tests import programs

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.usefixtures("tools")]

CONFIG = programs.tiny(2, 2, 4, 1, act_bytes=512, weight_words=128, param_words=32, slots=4, tables=0, weight_bits=8)


@pytest.mark.parametrize("board", ["ulx3s"])
def test_the_cells_leave_what_the_machine_leaves(board):
    bus = open_bus(CONFIG, board)
    with Driver(bus, CONFIG) as driver:
        for seed in range(8):
            machine = programs.random_machine(CONFIG, np.random.default_rng(seed), layers=2)
            programs.load(driver, machine)
            counters = driver.start(0)
            assert machine.run().error is isa.ErrorCode.NONE
            assert np.array_equal(driver.read_act(0, CONFIG.act_bytes), machine.act)
            predicted = timing.predict(programs.decoded(machine), CONFIG)
            assert counters["cycles"] == predicted.total
            assert driver.profile(len(predicted.layers)) == [layer.cycles for layer in predicted.layers]


def test_cells_without_models_are_refused():
    with pytest.raises(
        HwqError, match=r"^There are no models of the cells of GW2AR-18C; choose a board of ecp5 or ice40$"
    ):
        open_bus(CONFIG, "tang-nano-20k")
