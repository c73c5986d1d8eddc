"""Proof that a change of a netlist changes nothing: every register and memory gets the same, whatever there was before.

Registers and memories are taken out of both netlists; what they give is an input, what they are given an output. Yosys
merges what is alike in both, and a SAT solver compares the rest. States that can't be reached count, so that there are
harmless changes of which it can't be proved.
"""

from __future__ import annotations

import json
import tempfile
from itertools import count, islice
from pathlib import Path
from typing import Any

SECONDS = 60
"""What the solver may take."""

_SPLIT = """
read_rtlil whole.il
{change}
write_json whole.json
"""

_COMPARE = f"""
read_json first.json
rename top first
read_json second.json
rename top second
miter -equiv -flatten first second both
hierarchy -top both
opt -fine
opt -share_all
sat -verify -timeout {SECONDS} -prove trigger 0 both
"""


def without_state(netlist: bytes) -> bytes:
    """Return Yosys's netlist in JSON with its registers' and memories' pins as its own."""
    design = json.loads(netlist)
    top = design["modules"]["top"]
    cells, ports = top["cells"], top["ports"]
    named = (bit for net in top["netnames"].values() for bit in net["bits"])
    nets = count(1 + max(bit for bit in named if isinstance(bit, int)))
    for name in [name for name, cell in cells.items() if _holds(cell["type"])]:
        cell = cells.pop(name)
        for pin, bits in cell["connections"].items():
            port = f"{name}.{pin}"
            if cell["port_directions"][pin] == "output":
                ports[port] = {"direction": "input", "bits": bits}
            elif bits:  # a port of constants would be one of nothing: a buffer makes them a net
                ports[port] = {"direction": "output", "bits": list(islice(nets, len(bits)))}
                cells[f"{port}.buffer"] = _buffer(bits, ports[port]["bits"])
    return json.dumps(design).encode()


def _holds(kind: str) -> bool:
    return kind.startswith("$mem") or "dff" in kind or "latch" in kind


def _buffer(given: list[int | str], driven: list[int]) -> dict[str, Any]:
    width = f"{len(driven):032b}"
    return {
        "type": "$pos",
        "parameters": {"A_SIGNED": f"{0:032b}", "A_WIDTH": width, "Y_WIDTH": width},
        "attributes": {},
        "port_directions": {"A": "input", "Y": "output"},
        "connections": {"A": given, "Y": driven},
    }


def is_proved(whole: bytes, change: str) -> bool:
    """Whether the netlist `whole`, in RTLIL with top module ``top``, gives its state the same after Yosys's command."""
    from boards.tools import TOOLS

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "whole.il").write_bytes(whole)
        for name, command in (("first", ""), ("second", change)):
            (work / "top.ys").write_text(_SPLIT.format(change=command), encoding="utf-8")
            if TOOLS["yosys"].run(("-q", "top.ys"), work):
                raise RuntimeError("Yosys refuses the netlist")
            (work / f"{name}.json").write_bytes(without_state((work / "whole.json").read_bytes()))
        (work / "top.ys").write_text(_COMPARE, encoding="utf-8")
        return TOOLS["yosys"].run(("-q", "top.ys"), work) == 0
