"""A program on the machine and on a core at once: every byte, every layer's cycles, every counter."""

import numpy as np

from hwq import isa, timing
from tests import programs


def load(driver, machine):
    """Write a machine's memories into the core."""
    driver.load_program(machine.program)
    driver.load_params(machine.params)
    driver.load_weights(machine.weights)
    if machine.config.tables:
        driver.load_tables(machine.tables)
    driver.write_act(0, machine.act)


def compare(driver, machine, where: object = ""):
    """Run a program on both and compare; return the predicted timing. `where` names the case if they differ."""
    load(driver, machine)
    layers = programs.decoded(machine)
    predicted = timing.predict(layers, machine.config)
    assert machine.run().error is isa.ErrorCode.NONE, where
    counters = driver.start(0)
    wrong = np.flatnonzero(driver.read_act(0, machine.config.act_bytes) != machine.act)
    assert not wrong.size, f"{where}: {wrong.size} bytes differ, first at {wrong[0]}"
    assert counters["cycles"] == predicted.total, where
    if not machine.config.monitor:
        assert list(counters) == ["cycles"]
        assert driver.profile(1) == []
        return predicted
    assert driver.profile(len(predicted.layers)) == [layer.cycles for layer in predicted.layers], where
    assert sum(count for name, count in counters.items() if name != "cycles") == predicted.total, where
    assert counters["cycles_mesh"] == sum(timing.mesh_steps(d, machine.config) for d in layers[:-1]), where
    return predicted
