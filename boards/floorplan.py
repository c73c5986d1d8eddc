"""Where cells go: nextpnr's placer, and ahead of it the block memories and multipliers of a large array.

nextpnr moves cells to where their neighbours want them, and block memories and multipliers from there to the nearest
free site. Of a device that has none to spare most sites are then far away: half of the wire of `ecp5-8x16` came from
that step. So each column of the mesh gets the memories and multipliers of a stripe of the device, the output path's
multipliers stay together, and activation memory lies beside them.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping

Site = tuple[int, int, str]
"""Column, row and name of a site."""

_PLACERS = {"LFE5": "--placer static"}
"""By the beginning of a device's name. Of `ecp5-4x4` on an LFE5U-25F the wire is a fifth shorter than with HeAP."""

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
    """Return the options of nextpnr's placement for `device`."""
    return next((option for prefix, option in _PLACERS.items() if device.startswith(prefix)), "")


def arranged(netlist: bytes, device: str) -> bytes:
    """Return Yosys's netlist with a site for each block memory and multiplier of a core that fills `device`.

    It is returned as it is where nothing is known of the device's sites, or it has enough of them to spare.
    """
    if device not in SITES:
        return netlist
    design = json.loads(netlist)
    cells = design["modules"]["top"]["cells"]
    found: dict[str, Site] = {}
    columns = 1 + max(map(_number(_ELEMENT), cells))
    for kind, place in (("DP16KD", _memories), ("MULT18X18D", functools.partial(_multipliers, columns=columns))):
        names, sites = [name for name, cell in cells.items() if cell["type"] == kind], SITES[device][kind]
        if _FILL * len(sites) <= len(names) <= len(sites):
            found |= place(names, sites)
    for name, (column, row, site) in found.items():
        cells[name]["attributes"]["BEL"] = f"X{column}/Y{row}/{site}"
    return json.dumps(design).encode() if found else netlist


def _multipliers(names: list[str], sites: list[Site], columns: int) -> dict[str, Site]:
    """Give the mesh a stripe a column, from the top, and the output path what is left in the middle of the bottom."""
    mesh = sorted(filter(_MESH.search, names), key=_number(_MESH))
    path = sorted(set(names) - set(mesh), key=lambda name: (_number(_LANE)(name), name))
    rest, found = sorted(_outer(sites, len(mesh), 1)), {}
    for column in (mesh[first::columns] for first in range(columns)):
        stripe, rest = rest[: len(column)], rest[len(column) :]
        found |= zip(column, sorted(stripe, key=lambda site: site[1]), strict=True)
    return found | dict(zip(path, sorted(set(sites) - set(found.values())), strict=False))


def _memories(names: list[str], sites: list[Site]) -> dict[str, Site]:
    """Give weights stripes from the top, activation memory the bottom, and the rest what is left in the middle."""
    weights = {name: (match[1], int(match[2])) for name in names if (match := _WEIGHTS.search(name))}
    parts = {memory: 1 + max(part for of, part in weights.values() if of == memory) for memory, _ in weights.values()}
    along = sorted(weights, key=lambda name: ((weights[name][1] + 0.5) / parts[weights[name][0]], name))
    found = dict(zip(along, sorted(_outer(sites, len(along), 1)), strict=True))
    banks = sorted(filter(_BANK.search, names), key=lambda name: (_number(_BANK)(name), name))
    free = sorted(set(sites) - set(found.values()))
    found |= zip(banks, sorted(_outer(free, len(banks), -1)), strict=True)
    others = sorted(set(names) - set(found))
    return found | dict(zip(others, sorted(set(sites) - set(found.values())), strict=False))


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
