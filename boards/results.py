"""What the tools said of the boards, as `boards.measure` wrote it, in tables.

Figures are of placed and routed designs, and of cycles counted on the RTL; no board has been measured.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from boards.registry import BOARDS
from hwq.config import ArrayConfig
from hwq.program import write_whole
from hwq.report.peers import PEERS

RESULTS = Path(__file__).with_name("results.json")

Row = dict[str, Any]
"""A row of results.json: a board with its own array, placed and routed, or one that was only synthesized, which has no
clock."""


def rows() -> list[Row]:
    """Return results.json."""
    found: list[Row] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def keep(row: Row) -> None:
    """Write `row` to results.json, in place of the one of the same board and array."""
    others = [known for known in rows() if place(known) != place(row)]
    write_whole(RESULTS, (json.dumps(sorted([*others, row], key=place), indent=1) + "\n").encode())


def place(row: Row) -> tuple[int, str]:
    """Return where `row` belongs: one board and array have one row."""
    return BOARDS.index(row["board"]), row["config"]["name"]


def table() -> str:
    """Return the boards' resources and clocks as a README's table."""
    lines = [
        "| board | array | LUT | FF | DSP | RAM | LUT a PE | clock | fmax of each seed | netlist |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|--:|",
    ]
    for row in rows():
        if "clock_mhz" in row:
            counts = [_count(row["resources"], kind) for kind in ("LUT", "FF", "DSP", "RAM")]
            reached = ", ".join(f"{mhz:.1f}" for mhz in row["seeds"].values()) or "too large"
            reached += ": missed" * bool(row["seeds"] and row["problem"])
            cells = [row["device"], f"`{row['config']['name']}`", *counts, f"{row['lut_per_pe']:g}"]
            compared = row.get("netlist")
            cells += [f"{row['clock_mhz']:g} MHz", reached]
            cells.append(f"{compared['mismatches']} of {compared['elements']:,}" if compared else "-")
            lines.append(f"| {row['board']}, " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts(board: str) -> str:
    """Return what the array of `board` takes with fewer widths and lanes as a README's table."""
    lines = ["| widths | lanes | LUT | FF | DSP | LUT a PE |", "|---|--:|--:|--:|--:|--:|"]
    found = [(row, ArrayConfig(**row["config"])) for row in rows() if row["board"] == board]
    for row, config in sorted(found, key=lambda pair: (pair[1].weight_bits, pair[1].lanes), reverse=True):
        widths = "W8A8" + ", W4A8" * config.int4 + ", W4A4" * config.act_int4 + ", codebooks" * config.codebooks
        lut, ff, dsp = (row["resources"][kind]["used"] for kind in ("LUT", "FF", "DSP"))
        lines.append(f"| {widths} | {config.lanes} | {lut:,} | {ff:,} | {dsp} | {lut / config.macs_per_cycle:.1f} |")
    return "\n".join(lines)


def _count(uses: dict[str, dict[str, int]], kind: str) -> str:
    if kind not in uses:
        return "-"
    return f"{uses[kind]['used']:,} of {uses[kind]['there']:,}"


def paths() -> str:
    """Return the slowest path of each routed board as a README's table."""
    lines = ["| board | MHz | slowest path | logic | wire |", "|---|--:|---|--:|--:|"]
    for row in rows():
        if row["seeds"] and row["timing"]:
            timing = row["timing"]
            ends = " to ".join(f"`{_unit(timing[end])}`" for end in ("start", "end"))
            delays = (f"{timing[kind]:.1f} ns" for kind in ("logic_ns", "routing_ns"))
            lines.append(f"| {row['board']} | {timing['fmax_mhz']:.1f} | {ends} | {' | '.join(delays)} |")
    return "\n".join(lines)


def _unit(pin: str) -> str:
    """Return the unit of the gateware that a cell's pin belongs to."""
    parts = re.split(r"_(?:TRELLIS|SB|LUT4|CCU2C|DFF)|\[", pin.removeprefix("core.accelerator."))[0].split(".")
    return ".".join(parts[:-1]) or parts[0]


def rates() -> str:
    """Return inferences a second as a README's table: our fmax by the RTL's cycles, beside what others measured."""
    theirs = json.loads(PEERS.read_text(encoding="utf-8"))["boards"]
    routed = [row for row in rows() if row["seeds"] and row.get("cycles")]
    networks = list(dict.fromkeys(network for row in routed for network in row["cycles"]))
    if not networks:
        return "No routed board has its networks measured yet."
    lines = ["| network | on | DSP | MHz | cycles | inferences a second |", "|---|---|--:|--:|--:|--:|"]
    for network in networks:
        for row in routed:
            if network in row["cycles"]:
                where = f"hwq {row['board']}, `{row['config']['name']}`: post-route timing, RTL cycles"
                mhz, cycles = max(row["seeds"].values()), row["cycles"][network]
                dsp = row["resources"].get("DSP", {"used": 0})["used"]
                lines.append(f"| {network} | {where} | {dsp} | {mhz:.1f} | {cycles:,} | {mhz * 1e6 / cycles:,.0f} |")
        for peer in theirs:
            if network == peer["network"]:
                rate = peer["inferences_per_s"]
                where = f"fpgaconvnet {peer['board']}, a measured board"
                lines.append(f"| {network} | {where} | {peer['dsp']} | {peer['mhz']} | | {rate:,.0f} |")
    return "\n".join(lines)
