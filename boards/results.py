"""What the tools say of the boards: ``python -m boards.results`` builds them all and writes results.json again.

Figures are of placed and routed designs, and of cycles counted on the RTL; no board has been measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from boards import flow
from boards.build import DEFAULT_SEEDS, build
from boards.registry import BOARDS, find
from boards.report import resources
from hwq.config import PRESETS, ArrayConfig, load_arch
from hwq.program import write_whole
from hwq.report import results

RESULTS = Path(__file__).with_name("results.json")

_PROBE = ArrayConfig(
    name="probe", rows=2, cols=2, fetch_bytes=4, lanes=1, act_bytes=8192, weight_words=2048, param_words=64, slots=16
)

PROBES = {
    "ulx3s": tuple(
        replace(_PROBE, name=f"probe-{rows}x{cols}-{lanes}-w{bits}", rows=rows, cols=cols, lanes=lanes,
                fetch_bytes=max(4, cols), weight_bits=bits, tables=tables)
        for rows, cols, lanes, bits, tables in (
            (2, 2, 1, 8, 0), (4, 4, 1, 8, 0), (4, 4, 1, 4, 0), (4, 4, 2, 8, 2), (4, 8, 2, 8, 0), (4, 8, 4, 4, 2),
        )
    ),
}  # fmt: skip
"""Small accelerators that are only synthesized, so that `boards.estimate` has something to go by."""


def measure(board: str, seeds: int = DEFAULT_SEEDS) -> dict[str, Any]:
    """Return the row of a board with its own accelerator."""
    config = load_arch(find(board).arch)
    with tempfile.TemporaryDirectory() as folder:
        report = build(board, Path(folder), seeds=seeds, progress=_tell)
    found = report.to_dict()
    kept = ("board", "device", "clock_mhz", "resources", "lut_per_pe", "seeds", "timing", "problem", "tools")
    return {**{name: found[name] for name in kept}, "config": config.to_dict()}


def probe(board: str, config: ArrayConfig) -> dict[str, Any]:
    """Return the row of an accelerator without clock, link and pins, synthesized and counted."""
    from boards.top import BoardTop
    from rtl.link.serial_core import SerialCore

    target = find(board)
    platform, clock = target.open_platform(), target.clock()
    plan = flow.Plan.of(platform, BoardTop(target, SerialCore(config, clock.divisor), clock))
    _tell(f"Synthesizing {config.name}", 0, 0)
    uses = resources(flow.fit(plan, flow.synthesize(plan)))
    counted = {kind: asdict(use) for kind, use in uses.items()}
    return {"board": board, "device": platform.device, "resources": counted, "config": config.to_dict(), "seeds": {}}


def rows() -> list[dict[str, Any]]:
    """Return results.json."""
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def table() -> str:
    """Return the boards' resources and clocks as a README's table."""
    lines = [
        "| board | array | LUT | FF | DSP | RAM | LUT a PE | clock | fmax of each seed |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows():
        if "clock_mhz" in row:
            counts = [_count(row["resources"], kind) for kind in ("LUT", "FF", "DSP", "RAM")]
            reached = ", ".join(f"{mhz:.1f}" for mhz in row["seeds"].values()) or "too large"
            cells = [row["device"], f"`{row['config']['name']}`", *counts, f"{row['lut_per_pe']:g}"]
            cells += [f"{row['clock_mhz']:g} MHz", reached]
            lines.append(f"| {row['board']}, " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _count(uses: dict[str, dict[str, int]], kind: str) -> str:
    if kind not in uses:
        return "-"
    return f"{uses[kind]['used']:,} of {uses[kind]['there']:,}"


def rates() -> str:
    """Return inferences a second, fmax by the RTL's cycles, of the boards that meet their clock, as a table."""
    cycles = {(row["network"], row["arch"]): row["cycles_measured"] for row in json.loads(results.RESULTS.read_text())}
    lines = ["| network | board | array | fmax | cycles | inferences a second |", "|---|---|---|--:|--:|--:|"]
    for row in rows():
        if row["seeds"] and not row["problem"]:
            best, arch = max(row["seeds"].values()), row["config"]["name"]
            for (network, on), count in cycles.items():
                if on == arch:
                    rate = f"{best * 1e6 / count:,.0f}"
                    lines.append(f"| {network} | {row['board']} | `{arch}` | {best:.1f} MHz | {count:,} | {rate} |")
    return "\n".join(lines) if len(lines) > 2 else "No board's accelerator meets its clock yet."


def _tell(what: str, done: int, total: int) -> None:
    print(what, f"{done}/{total}" if total else "", file=sys.stderr)


def main() -> None:
    """Build and write results.json."""
    parser = argparse.ArgumentParser(description="Build the boards again; hours on a small machine.")
    parser.add_argument("boards", nargs="*", help="boards to build; the others keep their rows")
    parser.add_argument("--seeds", type=int, default=DEFAULT_SEEDS)
    parser.add_argument("--probes", action="store_true", help="synthesize the estimate's small accelerators too")
    arguments = parser.parse_args()
    for board in arguments.boards or BOARDS:
        if find(board).arch in PRESETS:
            _keep(measure(board, arguments.seeds))
        for config in PROBES.get(board, ()) if arguments.probes else ():
            _keep(probe(board, config))


def _keep(row: dict[str, Any]) -> None:
    """Write `row` to results.json, in place of the one of the same board and array."""
    others = [known for known in rows() if _place(known) != _place(row)]
    write_whole(RESULTS, (json.dumps(sorted([*others, row], key=_place), indent=1) + "\n").encode())


def _place(row: dict[str, Any]) -> tuple[int, str]:
    return BOARDS.index(row["board"]), row["config"]["name"]


if __name__ == "__main__":
    main()
