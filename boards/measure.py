"""``python -m boards.measure [BOARDS]`` builds the boards and writes results.json; hours on a small machine.

A row holds the hash of all its netlist is made from, so that one of an earlier gateware is known: only those are built.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from boards import flow
from boards.build import DEFAULT_SEEDS, accelerator, build, count, plan_core
from boards.registry import BOARDS, find
from boards.results import Row, keep, place, rows
from hwq.config import PRESETS, ArrayConfig, load_arch
from hwq.report.results import NETWORKS

_PROBE = ArrayConfig(
    name="", rows=2, cols=2, fetch_bytes=4, lanes=1, act_bytes=4096, weight_words=512, param_words=64, slots=4
)


def _probes(*shapes: tuple[int, int, int, int, int]) -> tuple[ArrayConfig, ...]:
    """Return small accelerators of so many rows, columns, lanes, tables and bits of weights."""
    return tuple(
        replace(_PROBE, name=f"probe-{rows}x{cols}-l{lanes}-t{tables}-w{bits}", rows=rows, cols=cols, lanes=lanes,
                tables=tables, weight_bits=bits, fetch_bytes=max(4, cols))
        for rows, cols, lanes, tables, bits in shapes
    )  # fmt: skip


PROBES = {
    "ice40-hx8k": _probes(
        (2, 2, 1, 0, 8), (4, 2, 1, 0, 8), (2, 4, 1, 0, 8), (4, 4, 1, 0, 8), (2, 4, 2, 0, 8), (2, 2, 1, 1, 8),
        (2, 4, 1, 0, 4), (2, 2, 2, 2, 4),
    ),
    "colorlight-i5": _probes(
        (2, 2, 1, 0, 8), (4, 4, 1, 0, 8), (4, 4, 2, 0, 8), (4, 4, 2, 2, 4), (4, 8, 1, 0, 4), (4, 8, 4, 2, 8),
        (8, 8, 2, 0, 8),
    ),
    "ulx3s": tuple(
        replace(PRESETS["ecp5-8x16"], name=f"8x16-w8-l{lanes}", lanes=lanes, weight_bits=8, act_bits=8, codebooks=0)
        for lanes in (8, 4)
    ),
}  # fmt: skip
"""Accelerators that are only synthesized: for `boards.estimate` to go by, and to see what a large one's parts take."""


def measure(board: str, seeds: int = DEFAULT_SEEDS, workloads: Path | None = None) -> Row:
    """Return the row of a board with its own accelerator.

    Parameters
    ----------
    board : str
    seeds : int
    workloads : Path
        Folder of the third-party networks: cycles of those that fit as a whole are counted in Verilator.
    """
    config = load_arch(find(board).arch)
    with tempfile.TemporaryDirectory() as folder:
        report = build(board, Path(folder), seeds=seeds, progress=_tell)
    found = report.to_dict()
    kept = ("board", "device", "inputs", "clock_mhz", "resources", "lut_per_pe", "seeds", "timing", "problem", "tools")
    row = {name: found[name] for name in kept} | {"config": config.to_dict()}
    if report.seeds:
        row["netlist"] = netlist(board, config)
        if workloads is not None:
            row["cycles"] = cycles(config, workloads)
    return row


def netlist(board: str, config: ArrayConfig) -> dict[str, int] | None:
    """Return the elements compared and the mismatches of the bundled network on the netlist in the board's cells.

    None where there are no models of these cells.
    """
    import hwq
    from hwq import demo
    from sim.cells import READ

    if find(board).open_platform().family.lower() not in READ:
        return None
    _tell(f"Running the demo on the netlist of {config.name}", 0, 0)
    (_, rung) = hwq.verify(demo.model_path(), config, samples=1, targets=("machine", f"netlist:{board}")).rungs
    return {"elements": rung.elements, "mismatches": rung.mismatches}


def cycles(config: ArrayConfig, workloads: Path) -> dict[str, int]:
    """Return the RTL's cycles of one inference of each network that `config` holds as a whole, with every answer right.

    Raises
    ------
    RuntimeError
        Where an answer differs.
    """
    import hwq
    from hwq.errors import HwqError

    found = {}
    for name, path in NETWORKS.items():
        try:
            pages = hwq.estimate(hwq.compile(workloads / path, config)).pages
        except HwqError as error:
            _tell(f"{name} doesn't run on {config.name}: {error}", 0, 0)
            continue
        if pages == 1:
            _tell(f"Running {name} on {config.name} in Verilator", 0, 0)
            report = hwq.verify(workloads / path, config, samples=1)
            if not report.ok:
                raise RuntimeError(f"{name} on {config.name}: {report}")
            found[name] = report.cycles_measured
    return found


def probe(board: str, config: ArrayConfig) -> Row:
    """Return the row of an accelerator that is only synthesized."""
    target = find(board)
    plan = plan_core(target, accelerator(config), target.clock())
    _tell(f"Synthesizing {config.name}", 0, 0)
    uses = count(plan, flow.synthesize(plan))
    return {
        "board": board,
        "device": target.platform.device,
        "inputs": plan.inputs,
        "resources": {kind: asdict(use) for kind, use in uses.items()},
        "seeds": {},
        "config": config.to_dict(),
    }


def is_stale(row: Row) -> bool:
    """Return whether today's gateware, or today's array of that name, would give another netlist than the row's."""
    target, config = find(row["board"]), ArrayConfig(**row["config"])
    if "clock_mhz" in row:
        config = load_arch(target.arch)
    return bool(row.get("inputs") != plan_core(target, accelerator(config), target.clock()).inputs)


def main(words: Sequence[str] | None = None) -> None:
    """Build what is stale and write results.json."""
    parser = argparse.ArgumentParser(description="Build the boards whose rows are stale; hours on a small machine.")
    parser.add_argument("boards", nargs="*", metavar="BOARD", help="all without any")
    parser.add_argument("--seeds", type=int, default=DEFAULT_SEEDS, help="placements to try")
    parser.add_argument("--probes", action="store_true", help="synthesize the estimate's small accelerators too")
    parser.add_argument("--workloads", type=Path, help="folder of the networks whose cycles are counted")
    parser.add_argument("--stale", action="store_true", help="build nothing; name stale rows, with status 1 for any")
    arguments = parser.parse_args(words)
    boards = arguments.boards or BOARDS
    known = {place(row): row for row in rows() if row["board"] in boards}
    if arguments.stale:
        stale = [row for row in known.values() if is_stale(row)]
        for row in stale:
            print(f"{row['board']}, {row['config']['name']}: of another gateware")
        sys.exit(bool(stale))
    for board in boards:
        row = known.get((BOARDS.index(board), find(board).arch))
        routed = row["seeds"] if row else {}
        more = 0 < len(routed) < arguments.seeds or (routed and arguments.workloads and "cycles" not in row)
        if row is None or more or is_stale(row):
            keep(measure(board, arguments.seeds, arguments.workloads))
        for config in PROBES.get(board, ()) if arguments.probes else ():
            row = known.get((BOARDS.index(board), config.name))
            if row is None or row["config"] != config.to_dict() or is_stale(row):
                keep(probe(board, config))


def _tell(what: str, done: int, total: int) -> None:
    print(what, f"{done}/{total}" if total else "", file=sys.stderr)


if __name__ == "__main__":
    main()
