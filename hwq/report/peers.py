"""What others measured on the same networks, beside our cycles: the table that README.md shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hwq.config import load_arch
from hwq.report.results import RESULTS

PEERS = Path(__file__).with_name("peers.json")
"""Published figures of boards, with their source: inferences/s, clock [MHz] and multipliers (DSP blocks)."""

ARCH = "ecp5-8x16"
"""Our array that they are compared with."""


def cycles(board: dict[str, Any]) -> float:
    """Return the clock cycles between two inferences of a board."""
    return board["mhz"] * 1e6 / board["inferences_per_s"]


def table() -> str:
    """Return peers.json and our rows of results.json as the README's table."""
    rows = ["| network | on | multipliers | cycles per inference | of peak |", "|---|---|--:|--:|--:|"]
    boards = json.loads(PEERS.read_text(encoding="utf-8"))["boards"]
    multipliers = load_arch(ARCH).macs_per_cycle
    for ours in json.loads(RESULTS.read_text(encoding="utf-8")):
        theirs = [board for board in boards if board["network"] == ours["network"]]
        if ours["arch"] != ARCH or not theirs:
            continue
        rows.append(_row(ours, f"hwq `{ARCH}`, RTL", multipliers, ours["cycles_measured"]))
        rows += [_row(ours, f"fpgaconvnet {board['board']}, board", board["dsp"], cycles(board)) for board in theirs]
    return "\n".join(rows)


def _row(ours: dict[str, Any], place: str, multipliers: int, count: float) -> str:
    share = ours["macs"] / count / multipliers
    return f"| {ours['network']} | {place} | {multipliers} | {count:,.0f} | {100 * share:.1f}% |"
