"""Where cells go: nextpnr's placer, and ahead of it the block memories and multipliers of a large array.

nextpnr moves cells to where their neighbours want them, and block memories and multipliers from there to the nearest
free site. Of a device that has none to spare most sites are then far away: half of the wire of `ecp5-8x16` came from
that step. So each column of the mesh gets the memories and multipliers of a stripe of the device, and columns that
share a lane of the output path lie side by side. Activation memory has the bottom; above it are the output path's
multipliers and parameter memory, whose words are drawn out over the same columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping

from boards.copies import copy_registers, natural

Site = tuple[int, int, str]
"""Column, row and name of a site."""

_STATIC = "--placer static"
_OPTIONS = {"LFE5U-85F": f"{_STATIC} --router router2", "LFE5UM5G-85F": f"{_STATIC} --router router2", "LFE5": _STATIC}
"""By the beginning of a device's name, the first that fits.

Of `ecp5-4x4` on an LFE5U-25F the static placer's wire is a fifth shorter than HeAP's. The wires of a full LFE5U-85F
are so scarce that router1 undoes and redoes its last part without an end.
"""

_FILL = 0.9
"""Share of a device's sites from which on they are given out here."""


def _sites(starts: list[int], rows: tuple[int, ...], places: Mapping[int, str]) -> list[Site]:
    """Return sites at the offsets `places` from each of the columns `starts`."""
    return [(start + offset, row, name) for row in rows for start in starts for offset, name in places.items()]


_STARTS = [*range(4, 59, 9), *range(69, 115, 9)]

_LARGEST = {
    "DP16KD": _sites(_STARTS, (22, 46, 70, 82), {0: "EBR0", 2: "EBR1", 4: "EBR2", 6: "EBR3"}),
    "MULT18X18D": _sites(_STARTS, (10, 34, 58), {0: "MULT18_0", 1: "MULT18_1", 4: "MULT18_4", 5: "MULT18_5"}),
}

SITES: Mapping[str, Mapping[str, list[Site]]] = {"LFE5U-85F": _LARGEST, "LFE5UM5G-85F": _LARGEST}
"""Of a device and a type of cell, as nextpnr's names of them have it (``X4/Y22/EBR0``)."""

_MESH = re.compile(r"\.mesh\.multiplier_(\d+)\.")
_ELEMENT = re.compile(r"\.mesh\.pe_\d+_(\d+)$")
_WEIGHTS = re.compile(r"\.weights\.(memory|upper)\.\d+\.(\d+)$")
_BANK = re.compile(r"\.act\.bank_(\d+)\.")
_LANE = re.compile(r"\.post\.\D+_(\d+)\.")


def options(device: str) -> str:
    """Return the options of nextpnr's placement and routing for `device`."""
    return next((option for prefix, option in _OPTIONS.items() if device.startswith(prefix)), "")


def arranged(netlist: bytes, device: str) -> bytes:
    """Return Yosys's netlist with a site for each block memory and multiplier of a core that fills `device`.

    It is returned as it is where nothing is known of the device's sites, or it has enough of them to spare.
    """
    if device not in SITES:
        return netlist
    design = json.loads(netlist)
    cells = design["modules"]["top"]["cells"]
    found: dict[str, Site] = {}
    order = _order(cells)
    for kind, place in (("DP16KD", _memories), ("MULT18X18D", _multipliers)):
        names, sites = [name for name, cell in cells.items() if cell["type"] == kind], SITES[device][kind]
        if _FILL * len(sites) <= len(names) <= len(sites):
            found |= place(names, sites, order)
    for name, (column, row, site) in found.items():
        cells[name]["attributes"]["BEL"] = f"X{column}/Y{row}/{site}"
    if found:
        copy_registers(design["modules"]["top"])
    return json.dumps(design).encode() if found else netlist


def _order(cells: Iterable[str]) -> list[int]:
    """Return the mesh's columns from left to right: those that take turns at a lane of the output path side by side."""
    columns, lanes = (1 + max(map(_number(pattern), cells)) for pattern in (_ELEMENT, _LANE))
    return sorted(range(columns), key=lambda column: (column % lanes, column))


def _multipliers(names: list[str], sites: list[Site], order: list[int]) -> dict[str, Site]:
    """Give the mesh a stripe a column, from the top, and the output path what is left in the middle of the bottom."""
    mesh = sorted(filter(_MESH.search, names), key=_number(_MESH))
    path = sorted(set(names) - set(mesh), key=lambda name: (_number(_LANE)(name), name))
    rest, found = sorted(_outer(sites, len(mesh), 1)), {}
    for column in (mesh[first :: len(order)] for first in order):
        stripe, rest = rest[: len(column)], rest[len(column) :]
        found |= zip(column, sorted(stripe, key=lambda site: site[1]), strict=True)
    return found | dict(zip(path, sorted(set(sites) - set(found.values())), strict=False))


def _memories(names: list[str], sites: list[Site], order: list[int]) -> dict[str, Site]:
    """Give activation memory the bottom, weights stripes, and what is read as wide words sites far from each other."""

    def stripe(name: str) -> tuple[int, str]:
        """Return where the column is that part of weight memory is for, the last one if for several."""
        memory, part = weights[name]
        return order.index((part * len(order) + len(order) - 1) // parts[memory]), name

    weights = {name: (match[1], int(match[2])) for name in names if (match := _WEIGHTS.search(name))}
    parts = {memory: 1 + max(part for of, part in weights.values() if of == memory) for memory, _ in weights.values()}
    banks = sorted(filter(_BANK.search, names), key=lambda name: (_number(_BANK)(name), name))
    others = sorted(set(names) - set(weights) - set(banks), key=natural)
    found = dict(zip(banks, sorted(_outer(sites, len(banks), -1)), strict=True))
    free = [site for site in sites if site not in found.values()]
    low = sorted(_outer(free, 2 * len(others), -1))
    found |= zip(others, low[::2], strict=True)
    free = [site for site in free if site not in found.values()]
    return found | dict(zip(sorted(weights, key=stripe), sorted(_outer(free, len(weights), 1)), strict=True))


def _outer(sites: list[Site], count: int, downwards: int) -> list[Site]:
    """Return the `count` sites first met row by row, 1 downwards, -1 upwards, and in a row from its ends inwards."""
    centre = (min(sites)[0] + max(sites)[0]) / 2
    return sorted(sites, key=lambda site: (downwards * site[1], -abs(site[0] - centre), site))[:count]


def _number(pattern: re.Pattern[str]) -> Callable[[str], int]:
    """Return what finds the number that `pattern` has in a name; 0 without."""

    def number(name: str) -> int:
        match = pattern.search(name)
        return int(match[1]) if match else 0

    return number
