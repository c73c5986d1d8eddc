"""A program on the machine and on a core at once: every byte, every layer's cycles, every counter."""

import numpy as np

from hwq import isa, timing
from tests import programs

SPARE_CYCLES = 1000
"""Beyond those predicted before a core is said to hang."""


def load(driver, machine):
    """Write a machine's memories into the core."""
    driver.load_program(machine.program)
    driver.load_params(machine.params)
    driver.load_weights(machine.weights)
    if machine.config.tables:
        driver.load_tables(machine.tables)
    driver.write_act(0, machine.act)


def compare(driver, machine, where: object = "", slot=0, on_layer=None):
    """Run a program on both and compare; return the predicted timing. `where` names the case if they differ.

    It begins in `slot`; `on_layer` is the machine's.
    """
    load(driver, machine)
    layers = programs.decoded(machine, slot)
    predicted = timing.predict(layers, machine.config, slot)
    assert machine.run(slot, on_layer=on_layer).error is isa.ErrorCode.NONE, where
    counters = driver.start(slot, predicted.total + SPARE_CYCLES)
    wrong = np.flatnonzero(driver.read_act(0, machine.config.act_bytes) != machine.act)
    assert not wrong.size, f"{where}: {wrong.size} bytes differ, first at {wrong[0]}"
    assert counters["cycles"] == predicted.total, where
    if not machine.config.monitor:
        assert list(counters) == ["cycles"]
        assert driver.profile(1) == []
        return predicted
    assert driver.profile(slot + len(predicted.layers))[slot:] == [layer.cycles for layer in predicted.layers], where
    assert sum(count for name, count in counters.items() if name != "cycles") == predicted.total, where
    assert counters["cycles_mesh"] == sum(timing.mesh_steps(d, machine.config) for d in layers[:-1]), where
    return predicted
