"""Copies of registers: every pin sees the same register as before, and none drives more than its share."""

import copy
import itertools
from collections import Counter

import pytest

from boards.copies import MOST, PINS, SITED, copy_registers

D, CLOCK, Q = 2, 3, 4


def module(readers, *, port="A", clocked=False):
    """Return a module of one register and `readers` cells, the i-th of them at a site if it is even."""
    cells = {
        "held_TRELLIS_FF_Q": {
            "type": "TRELLIS_FF",
            "attributes": {},
            "parameters": {"REGSET": "SET"},
            "port_directions": {"DI": "input", "CLK": "input", "Q": "output"},
            "connections": {"DI": [D], "CLK": [CLOCK], "Q": [Q]},
        }
    }
    for index in range(readers):
        cells[f"reader_{index}"] = {
            "type": "DP16KD" if index % 2 == 0 else "LUT4",
            "attributes": {"BEL": f"X{(readers - index) % 100 + 1}/Y22/EBR0"} if index % 2 == 0 else {},
            "parameters": {},
            "port_directions": {port: "input", "CLKA": "input"},
            "connections": {port: [Q, "0"], "CLKA": [Q if clocked and index == 0 else CLOCK]},
        }
    return {"cells": cells, "netnames": {"held": {"hide_name": 0, "bits": [Q], "attributes": {}}}}


def drivers(found):
    """Return the register that drives each pin of a reader."""
    outputs = {cell["connections"]["Q"][0]: name for name, cell in found["cells"].items() if "Q" in cell["connections"]}
    readers = {name: cell for name, cell in found["cells"].items() if name.startswith("reader")}
    return {name: outputs[cell["connections"]["A"][0]] for name, cell in readers.items()}


@pytest.mark.parametrize("readers", [1, PINS // SITED, PINS, PINS + 1, 3 * PINS, PINS * MOST, 2 * PINS * MOST])
def test_a_copy_is_the_register_and_drives_its_share(readers):
    found = module(readers)
    before = copy.deepcopy(found)
    copy_registers(found)
    chosen = drivers(found)
    weights = {f"reader_{index}": SITED if index % 2 == 0 else 1 for index in range(readers)}
    total = sum(weights.values())
    count = min(MOST, -(-total // PINS))
    shares = Counter()
    for name, register in chosen.items():
        shares[register] += weights[name]
    assert (len(shares), shares.total(), len(chosen)) == (count, total, readers)
    assert all(abs(share - total / count) <= SITED for share in shares.values())
    original = before["cells"]["held_TRELLIS_FF_Q"]
    outputs = set()
    for name in set(chosen.values()):
        cell = found["cells"][name]
        assert {**cell, "connections": {**cell["connections"], "Q": [Q]}} == original
        outputs.add(cell["connections"]["Q"][0])
    assert len(outputs) == count
    for name in chosen:
        assert found["cells"][name]["connections"]["A"][1] == "0"
        assert found["cells"][name]["connections"]["CLKA"] == [CLOCK]


def test_pins_at_sites_are_shared_out_by_column():
    found = module(4 * PINS)
    copy_registers(found)
    columns = {}
    for name, register in drivers(found).items():
        site = found["cells"][name]["attributes"].get("BEL")
        if site:
            columns.setdefault(register, []).append(int(site.split("/")[0][1:]))
    spans = sorted((min(found), max(found)) for found in columns.values())
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_a_register_that_is_a_clock_stays_alone():
    found = module(4 * PINS, clocked=True)
    before = copy.deepcopy(found)
    copy_registers(found)
    assert found == before


def test_the_order_of_cells_means_nothing():
    one, other = module(3 * PINS), module(3 * PINS)
    other["cells"] = dict(reversed(other["cells"].items()))
    copy_registers(one)
    copy_registers(other)
    assert one == other
