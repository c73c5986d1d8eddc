"""What a build says about itself: resources, clock, and the sentence on what doesn't fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = {
    "TRELLIS_COMB": "LUT",
    "TRELLIS_FF": "FF",
    "MULT18X18D": "DSP",
    "DP16KD": "RAM",
    "ICESTORM_LC": "LUT",
    "ICESTORM_DSP": "DSP",
    "ICESTORM_RAM": "RAM",
    "ICESTORM_SPRAM": "SPRAM",
    "LUT4": "LUT",
    "DFF": "FF",
    "MULT18X18": "DSP",
    "BSRAM": "RAM",
}
"""nextpnr's names, and ours: an iCE40's logic cell is a LUT4 and a flip-flop, so ``LUT`` counts cells there; ``DSP``
leaves out a Gowin's multipliers of 9 bits, of which two take the place of one."""

REMEDIES = {
    "LUT": "choose a smaller array (rows, cols, lanes), weight_bits = 8, or a larger board",
    "FF": "choose a smaller array (rows, cols, lanes), or a larger board",
    "DSP": "choose a smaller array (rows, cols, lanes), or a larger board",
    "RAM": "choose smaller memories (act_bytes, weight_words, param_words, slots)",
    "SPRAM": "choose smaller memories (act_bytes, weight_words)",
}


@dataclass(frozen=True)
class Use:
    """Resources of one kind."""

    used: int
    there: int


def resources(utilisation: Mapping[str, tuple[int, int]]) -> dict[str, Use]:
    """Return `boards.flow.utilisation` by our names, of those that limit an accelerator.

    >>> resources({"ICESTORM_LC": (12, 7680), "SB_IO": (6, 206)})
    {'LUT': Use(used=12, there=7680)}
    """
    return {kind: Use(*utilisation[name]) for name, kind in KINDS.items() if name in utilisation}


def overfull(device: str, uses: Mapping[str, Use]) -> str | None:
    """Return the sentence on what `device` has too little of, worst first, or None.

    >>> overfull("iCE40HX8K", {"LUT": Use(16909, 7680), "RAM": Use(15, 32)})
    'iCE40HX8K is overfull: 16,909 of 7,680 LUT (9,229 too many); choose a smaller array (rows, cols, lanes), \
weight_bits = 8, or a larger board'
    """
    over = {kind: use for kind, use in uses.items() if use.used > use.there}
    if not over:
        return None
    kinds = sorted(over, key=lambda kind: -over[kind].used / max(1, over[kind].there))
    amounts = [f"{over[k].used:,} of {over[k].there:,} {k} ({over[k].used - over[k].there:,} too many)" for k in kinds]
    return f"{device} is overfull: {', '.join(amounts)}; {REMEDIES[kinds[0]]}"


def missed(wanted_mhz: float, fmax_mhz: float, seeds: int) -> str | None:
    """Return the sentence on the clock that the best of `seeds` seeds misses, or None.

    >>> missed(100.0, 91.7, 4)
    'The clock of 100 MHz is missed by 8.3 MHz: the best of 4 seeds makes 91.7; choose --clock 91, or more --seeds'
    """
    if fmax_mhz >= wanted_mhz:
        return None
    short = f"The clock of {wanted_mhz:g} MHz is missed by {wanted_mhz - fmax_mhz:.1f} MHz"
    best = "the only seed" if seeds == 1 else f"the best of {seeds} seeds"
    return f"{short}: {best} makes {fmax_mhz:.1f}; choose --clock {int(fmax_mhz)}, or more --seeds"


@dataclass(frozen=True)
class Timing:
    """The slowest clock of a routed design.

    Members
    -------
    fmax_mhz : float
    start, end : str
        Cells and pins of its critical path.
    logic_ns, routing_ns : float
        What the path spends in cells, setup included, and in wires.
    """

    fmax_mhz: float
    start: str
    end: str
    logic_ns: float
    routing_ns: float


def timing(path: Path) -> Timing:
    """Return what nextpnr's ``report.json`` says of the slowest clock."""
    report = json.loads(path.read_text(encoding="utf-8"))
    clock, entry = min(report["fmax"].items(), key=lambda item: item[1]["achieved"])
    for found in report["critical_paths"]:
        if found["from"] == found["to"] == f"posedge {clock}":
            steps = found["path"]
            wires = sum(step["delay"] for step in steps if step["type"] == "routing")
            total = sum(step["delay"] for step in steps)
            start, end = _pin(steps[0]["from"]), _pin(steps[-1]["to"])
            return Timing(entry["achieved"], start, end, round(total - wires, 2), round(wires, 2))
    return Timing(entry["achieved"], "", "", 0.0, 0.0)


def _pin(end: Mapping[str, Any]) -> str:
    return f"{end['cell']}.{end['port']}"
