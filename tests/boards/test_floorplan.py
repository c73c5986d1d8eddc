"""Sites of block memories and multipliers, on netlists with the names that Yosys gives them."""

import json
import re

import pytest

from boards import floorplan
from boards.board import Board
from boards.registry import BOARDS, find

DEVICE = "LFE5U-85F"
ROWS, COLS, LANES = 8, 16, 8
CORE = "core.accelerator"


def cells(columns=COLS):
    """Return the names and types of a core's cells, in an order of no meaning."""
    found = {f"{CORE}.mesh.pe_{row}_{column}": "$scopeinfo" for row in range(ROWS) for column in range(columns)}
    found |= {f"{CORE}.mesh.multiplier_{index}.cell.cell": "MULT18X18D" for index in range(ROWS * columns)}
    found |= {
        f"{CORE}.post.requantizer_{lane}.multiplier.{part}.cell": "MULT18X18D"
        for lane in range(LANES)
        for part in ("inner", "outer")
    }
    found |= {
        f"{CORE}.post.adder_{lane}.{part}.cell": "MULT18X18D"
        for lane in range(0, LANES, 2)
        for part in ("high_a", "high_b", "low_b")
    }
    found |= {f"{CORE}.weights.memory.0.{bit}": "DP16KD" for bit in range(8 * columns)}
    found |= {f"{CORE}.weights.upper.0.{part}": "DP16KD" for part in range(4)}
    found |= {f"{CORE}.act.bank_{bank}.0.{part}": "DP16KD" for bank in range(16) for part in range(3)}
    found |= {f"{CORE}.params.memory.0.{part}": "DP16KD" for part in range(16)}
    found |= {f"{CORE}.program.0.{part}": "DP16KD" for part in range(4)}
    found |= {f"{CORE}.logic_{index}": "LUT4" for index in range(9)}
    return dict(sorted(found.items(), key=lambda item: hash(item[0])))


def netlist(found):
    members = {name: {"type": kind, "attributes": {}} for name, kind in found.items()}
    return json.dumps({"modules": {"top": {"cells": members, "netnames": {}}}}).encode()


def sites(data):
    """Return column, row and name of the site of each cell that has one."""
    members = json.loads(data)["modules"]["top"]["cells"]
    named = {name: cell["attributes"]["BEL"] for name, cell in members.items() if "BEL" in cell["attributes"]}
    parts = {name: re.fullmatch(r"X(\d+)/Y(\d+)/(\w+)", site).groups() for name, site in named.items()}
    return {name: (int(column), int(row), place) for name, (column, row, place) in parts.items()}


def test_every_memory_and_multiplier_has_a_site_of_its_own():
    found = cells()
    given = sites(floorplan.arranged(netlist(found), DEVICE))
    assert set(given) == {name for name, kind in found.items() if kind in ("DP16KD", "MULT18X18D")}
    assert len(set(given.values())) == len(given)
    for name, site in given.items():
        assert site in floorplan.SITES[DEVICE][found[name]]


def test_a_column_of_the_mesh_is_a_stripe_with_its_weights():
    given = sites(floorplan.arranged(netlist(cells()), DEVICE))
    for column in range(COLS):
        mesh = [given[f"{CORE}.mesh.multiplier_{row * COLS + column}.cell.cell"] for row in range(ROWS)]
        weights = [given[f"{CORE}.weights.memory.0.{8 * column + bit}"] for bit in range(8)]
        across = [site[0] for site in mesh + weights]
        assert max(across) - min(across) <= 24  # of 117 columns with sites
        assert [site[1] for site in mesh] == sorted(site[1] for site in mesh)


def test_activation_memory_and_the_output_path_are_neighbours():
    given = sites(floorplan.arranged(netlist(cells()), DEVICE))
    assert {site[1] for name, site in given.items() if ".act." in name} == {82}
    path = [site for name, site in given.items() if ".post." in name]
    assert {site[1] for site in path} == {58}
    assert max(site[0] for site in path) - min(site[0] for site in path) <= 72


@pytest.mark.parametrize("device", ["LFE5U-25F", "iCE40UP5K", ""])
def test_unknown_devices_are_left_alone(device):
    data = netlist(cells())
    assert floorplan.arranged(data, device) is data


def test_a_core_that_leaves_sites_free_is_left_alone():
    data = netlist(cells(columns=8))
    assert floorplan.arranged(data, DEVICE) is data


def test_the_order_of_cells_means_nothing():
    found = cells()
    other = dict(reversed(found.items()))
    assert sites(floorplan.arranged(netlist(found), DEVICE)) == sites(floorplan.arranged(netlist(other), DEVICE))


def test_ecp5_boards_have_the_placer_that_suits_them():
    boards = [board for board in map(find, BOARDS) if isinstance(board, Board)]
    chosen = {board.name for board in boards if "static" in floorplan.options(board.platform.device)}
    assert chosen == {"ulx3s", "ecpix5", "orangecrab", "colorlight-i5", "colorlight-i9"}
