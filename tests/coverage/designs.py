"""Which file of the gateware each module of a design is of."""

from __future__ import annotations

import re
from pathlib import Path

from amaranth.back import rtlil
from amaranth.lib import wiring

from sim.memory import SimulationPlatform
from sim.sources import ROOT

_MODULE = re.compile(r'^(?:attribute \\(?:src "(?P<source>[^"]*)"|.*)\n)*module \\(?P<name>\S+)', re.MULTILINE)


def files(component: wiring.Component, name: str = "top") -> dict[str, str]:
    """Return the file below ``rtl`` that makes each module of a component, by its name as in `sim.coverage.Point`.

    What a library makes, as memories, is counted to the module around it.
    """
    found = {}
    text = rtlil.convert(component, name=name, platform=SimulationPlatform())
    for match in _MODULE.finditer(text):
        path = Path((match["source"] or "").rpartition(":")[0])
        module = match["name"].removeprefix(name).removeprefix(".")
        inside = path.is_relative_to(ROOT / "rtl")
        found[module] = path.relative_to(ROOT / "rtl").as_posix() if inside else ""
    return {module: file or _around(found, module) for module, file in found.items()}


def _around(found: dict[str, str], module: str) -> str:
    while module and not found.get(module):
        module = module.rpartition(".")[0]
    return found[module]
