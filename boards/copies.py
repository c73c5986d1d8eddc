"""Copies of registers that drive many pins, in Yosys's netlist of a large ECP5 core.

nextpnr's static placer counts the wire of a net, which is the same wherever in it the register lies: one that is read
all over a device may end up at its rim. A copy for a few of the pins lies among them. Yosys would merge copies made in
the gateware's source.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any

PINS = 64
"""Pins that a register drives at most, where it has fewer than `MOST` copies."""

SITED = 8
"""Pins that one of a cell with a site counts as: it can't come nearer."""

MOST = 6

_REGISTER = "TRELLIS_FF"


def copy_registers(module: dict[str, Any]) -> None:
    """Give each register in `module` that drives more than `PINS` pins copies, which drive some of them each.

    Pins of cells with a site go by its column, others by the cells' names, which neighbours have in common. A
    register that is a clock stays alone.
    """
    cells = module["cells"]
    pins: dict[int, list[tuple[int, list[tuple[int, str]], str, int, str]]] = {}
    free = 0
    for name, cell in cells.items():
        column = int(cell["attributes"].get("BEL", "X0/").split("/")[0][1:])
        for port, bits in cell.get("connections", {}).items():
            driven = cell["port_directions"][port] == "output"
            for index, bit in enumerate(bits):
                if isinstance(bit, int):
                    free = max(free, bit + 1)
                    if not driven:
                        pins.setdefault(bit, []).append((column, natural(name), port, index, name))
    for register in sorted(name for name, cell in cells.items() if cell["type"] == _REGISTER):
        cell = cells[register]
        driven = sorted(pins.get(cell["connections"]["Q"][0], []))
        weights = [SITED if column else 1 for column, *_ in driven]
        count = min(MOST, -(-sum(weights) // PINS))
        if any(port.startswith("CLK") for _, _, port, _, _ in driven):
            continue
        for copy in range(1, count):
            name = f"{register}_copy_{copy}"
            cells[name] = {**cell, "connections": {**cell["connections"], "Q": [free]}}
            module["netnames"][f"{name}_Q"] = {"hide_name": 1, "bits": [free], "attributes": {}}
            for (_, _, port, index, end), before in zip(driven, accumulate(weights, initial=0), strict=False):
                if before * count // sum(weights) == copy:
                    cells[end]["connections"][port][index] = free
            free += 1


def natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts names by the numbers in them."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
