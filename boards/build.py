"""A board's bitstream, and a report on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from boards import flow
from boards.board import Board, Clock
from boards.registry import find
from boards.report import Timing, Use, missed, overfull, resources, timing
from boards.tools import TOOLS, ToolError
from boards.top import BoardTop
from hwq.config import ArrayConfig, load_arch
from hwq.errors import HwqError
from hwq.program import write_whole

DEFAULT_SEEDS = 4

REPORT = "report.json"

Core = Callable[[int], wiring.Component]
"""What makes a core from the serial line's divisor."""


@dataclass
class BuildReport:
    """What `build` found.

    Members
    -------
    board, device, arch : str
    digest : str
        Of the architecture.
    inputs : str
        Hash of all that the netlist is made from.
    clock_mhz : float
        The clock as the PLL makes it.
    resources : dict of str to Use
    lut_per_pe : float or None
    seeds : dict of int to float
        fmax of each seed that could be routed [MHz].
    best_seed : int or None
    timing : Timing or None
        Of the best seed.
    bitstream : str
        Its file beside the report; empty without one.
    problem : str
        The sentence on what doesn't fit or isn't met; empty where all is well.
    tools : dict of str to str
        Their versions.
    """

    board: str
    device: str
    arch: str
    digest: str
    inputs: str
    clock_mhz: float
    resources: dict[str, Use] = field(default_factory=dict)
    lut_per_pe: float | None = None
    seeds: dict[int, float] = field(default_factory=dict)
    best_seed: int | None = None
    timing: Timing | None = None
    bitstream: str = ""
    problem: str = ""
    tools: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is a bitstream that meets its clock."""
        return not self.problem

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        return {**asdict(self), "ok": self.ok}


def build(
    board: str,
    out: Path,
    *,
    arch: str | Path | ArrayConfig | None = None,
    clock_mhz: float | None = None,
    seeds: int = DEFAULT_SEEDS,
    progress: flow.Progress = lambda what, done, total: None,
) -> BuildReport:
    """Build the accelerator of `arch` for `board`; write bitstream, report and logs to the folder `out`.

    Parameters
    ----------
    board : str
    out : Path
        Made where it isn't there.
    arch : preset name, architecture file or ArrayConfig
        The board's own by default.
    clock_mhz : float
        Wanted clock [MHz]; the board's own by default.
    seeds : int
        Placements to try, from seed 1.
    progress : callable

    Raises
    ------
    HwqError
        An unknown board, architecture or clock; a missing tool; a tool that refused its input.
    """
    target, config = find(board), load_arch(arch or find(board).arch)
    return build_core(target, accelerator(config), out, config, clock_mhz, seeds=seeds, progress=progress)


def accelerator(config: ArrayConfig) -> Core:
    """Return what makes the accelerator of `config` behind its serial line."""
    from rtl.link.serial_core import SerialCore

    return lambda divisor: SerialCore(config, divisor)


def plan_core(board: Board, core: Core, clock: Clock) -> flow.Plan:
    """Return the plan of a core on `board`."""
    return flow.Plan.of(board.open_platform(), BoardTop(board, core(clock.divisor), clock), clock.hz)


def build_core(
    board: Board,
    core: Core,
    out: Path,
    config: ArrayConfig | None = None,
    clock_mhz: float | None = None,
    *,
    seeds: int = DEFAULT_SEEDS,
    progress: flow.Progress = lambda what, done, total: None,
) -> BuildReport:
    """Do as `build` does with any core behind the serial port."""
    clock = board.clock(clock_mhz and clock_mhz * 1e6)
    progress(f"Elaborating for {board.title}", 0, 0)
    plan = plan_core(board, core, clock)
    report = BuildReport(
        board=board.name,
        device=board.platform.device,
        arch="" if config is None else config.name,
        digest="" if config is None else config.digest(),
        inputs=plan.inputs,
        clock_mhz=clock.hz / 1e6,
        tools={name: TOOLS[name].version() for name in plan.tools},
    )
    out.mkdir(parents=True, exist_ok=True)
    try:
        _run(plan, report, clock, out, range(1, seeds + 1), progress)
    except ToolError as error:
        write_whole(out / "error.log", error.log.encode())
        raise HwqError(f"{error} (all it said is in {out / 'error.log'})") from error
    if config is not None and "LUT" in report.resources:
        report.lut_per_pe = round(report.resources["LUT"].used / config.macs_per_cycle, 1)
    write_whole(out / REPORT, (json.dumps(report.to_dict(), indent=1) + "\n").encode())
    return report


def count(plan: flow.Plan, netlist: Path) -> dict[str, Use]:
    """Return what a netlist takes of each resource."""
    uses = resources(flow.fit(plan, netlist))
    if "FF" not in uses:
        flip_flops = (netlist / "top.json").read_bytes().count(b'"type": "SB_DFF')
        uses["FF"] = Use(flip_flops, uses["LUT"].there)
    return uses


def _run(plan: flow.Plan, report: BuildReport, clock: Clock, out: Path, seeds: range, progress: flow.Progress) -> None:
    synthesis, routing, _ = plan.tools
    progress(f"Synthesizing{_first(synthesis)}", 0, 0)
    netlist = flow.synthesize(plan)
    write_whole(out / "yosys.log", (netlist / "top.rpt").read_bytes())
    progress(f"Counting resources{_first(routing)}", 0, 0)
    report.resources = count(plan, netlist)
    report.problem = overfull(report.device, report.resources) or ""
    if report.problem:
        return
    routed = flow.route_all(plan, netlist, seeds, progress)
    timings = {seed: timing(folder / REPORT) for seed, folder in routed.items() if isinstance(folder, Path)}
    if not timings:
        raise next(error for error in routed.values() if isinstance(error, ToolError))
    report.seeds = {seed: round(found.fmax_mhz, 2) for seed, found in timings.items()}
    report.best_seed = best = max(timings, key=lambda seed: (timings[seed].fmax_mhz, -seed))
    report.timing = timings[best]
    report.problem = missed(clock.hz / 1e6, timings[best].fmax_mhz, len(seeds)) or ""
    folder = routed[best]
    assert isinstance(folder, Path)
    write_whole(out / "nextpnr.log", (folder / "top.tim").read_bytes())
    report.bitstream = plan.bitstream
    write_whole(out / report.bitstream, flow.pack(plan, folder).read_bytes())


def _first(tool: str) -> str:
    return "" if TOOLS[tool].is_compiled() else f" (the first call of {tool} compiles it, for up to a minute)"
