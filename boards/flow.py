"""From a design to a bitstream in resumable steps: synthesis, fit, placement and routing of each seed, packing.

Amaranth's platform says what the commands are. A step's result lies in the cache of `sim.cache` under the hash of
all that it is made from, so an interrupted build goes on where it stopped, and the same one is never done twice.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.hdl import Elaboratable

from boards import floorplan
from boards.synthesis import options, unordered
from boards.tools import TOOLS, ToolError, stop_all
from sim.cache import cached, digest

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and the steps done and to do."""


LIMITS = (".lpf", ".pcf", ".cst")
"""How names of files of constraints end."""


@dataclass(frozen=True)
class Plan:
    """A design's source and the three commands that make a bitstream of it.

    Members
    -------
    device : str
    files : mapping of str to bytes
        The design, the script of its synthesis, the constraints.
    synthesis, routing, packing : tuple of str
        Tool and arguments.
    """

    device: str
    files: Mapping[str, bytes]
    synthesis: tuple[str, ...]
    routing: tuple[str, ...]
    packing: tuple[str, ...]

    @classmethod
    def of(cls, platform: Any, design: Elaboratable, hz: float) -> Plan:
        """Return the plan of `design` on a fresh Amaranth platform; the same sources give the same bytes.

        `hz` is what clocks are placed for that no constraint on a pin leads to.
        """
        nextpnr = f"--freq {hz / 1e6:g} {floorplan.options(platform.device)}".rstrip()
        overrides = {"synth_opts": options(platform), "nextpnr_opts": nextpnr}
        plan = platform.prepare(design, "top", emit_src=False, **overrides)
        files = {name: text.encode() if isinstance(text, str) else text for name, text in plan.files.items()}
        files["top.il"] = unordered(plan.files["top.il"]).encode()
        synthesis, routing, packing, *_ = json.loads(files["build_top.json"])[
            "commands"
        ]  # what follows prepares a boot loader
        kept = {name: data for name, data in files.items() if name.endswith((".il", ".ys", ".v", *LIMITS))}
        return cls(platform.device, kept, tuple(synthesis), tuple(routing), tuple(packing))

    @property
    def inputs(self) -> str:
        """Hash of all that the netlist is made from: the design, its script and Yosys."""
        return _hash(self.synthesis, self.files)

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools that are called."""
        return self.synthesis[0], self.routing[0], self.packing[0]

    def output(self, command: Sequence[str], *options: str) -> str:
        """Return the file that `command` writes: what follows the first of `options` it has, else its last word."""
        for option in options:
            if option in command:
                return command[command.index(option) + 1]
        return command[-1]

    @property
    def routed(self) -> str:
        """Name of the routed design."""
        return self.output(self.routing, "--textcfg", "--asc", "--write")

    @property
    def bitstream(self) -> str:
        """Name of the bitstream."""
        return self.output(self.packing, "--bit", "-o")


def synthesize(plan: Plan) -> Path:
    """Return the folder of the netlist, ``top.json``, and of Yosys's log, ``top.rpt``."""
    return step("synthesis", plan.synthesis, plan.files, ["top.json", "top.rpt"])


def fit(plan: Plan, netlist: Path) -> dict[str, tuple[int, int]]:
    """Return how many there are in use, and there, of each of the device's resources; nothing is placed yet.

    Raises
    ------
    ToolError
        Where nextpnr didn't come so far.
    """
    command = (*plan.routing, "--pack-only")
    folder = step("fit", command, _inputs(plan, netlist), ["top.tim"], good=(0, 1))
    return utilisation((folder / "top.tim").read_text())


def utilisation(log: str) -> dict[str, tuple[int, int]]:
    """Return used and available of each resource in nextpnr's log.

    >>> utilisation("Info: Device utilisation:\\nInfo: \\t   ICESTORM_LC:   16909/   7680   220%\\n")
    {'ICESTORM_LC': (16909, 7680)}
    """
    found = re.findall(r"^Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%", log, re.MULTILINE)
    return {name: (int(used), int(there)) for name, used, there in found}


def route(plan: Plan, netlist: Path, seed: int) -> Path:
    """Return the folder of the design as seed number `seed` places it, nextpnr's ``report.json`` and log ``top.tim``.

    A missed clock is no error here.
    """
    command = (*plan.routing, "--seed", str(seed), "--timing-allow-fail", "--report", "report.json")
    return step(f"seed-{seed}", command, _inputs(plan, netlist), [plan.routed, "report.json", "top.tim"])


def route_all(plan: Plan, netlist: Path, seeds: Iterable[int], progress: Progress) -> dict[int, Path | ToolError]:
    """Return what `route` does with each seed, or how it failed; as many run at once as there are processors."""
    results: dict[int, Path | ToolError] = {}
    seeds = list(seeds)

    def one(seed: int) -> None:
        try:
            results[seed] = route(plan, netlist, seed)
        except ToolError as error:
            results[seed] = error
        progress(f"Placing and routing with {len(seeds)} seeds", len(results), len(seeds))

    progress(f"Placing and routing with {len(seeds)} seeds", 0, len(seeds))
    pool = ThreadPoolExecutor(min(len(seeds), os.cpu_count() or 1))
    try:
        for future in [pool.submit(one, seed) for seed in seeds]:
            future.result()
    except BaseException:  # an interrupt, most of all
        pool.shutdown(wait=False, cancel_futures=True)
        stop_all()
        raise
    finally:
        pool.shutdown()
    return {seed: results[seed] for seed in seeds}


def pack(plan: Plan, routed: Path) -> Path:
    """Return the bitstream of what `route` returned."""
    folder = step("bitstream", plan.packing, {plan.routed: (routed / plan.routed).read_bytes()}, [plan.bitstream])
    return folder / plan.bitstream


def _inputs(plan: Plan, netlist: Path) -> dict[str, bytes]:
    limits = {name: data for name, data in plan.files.items() if name.endswith(LIMITS)}
    return {"top.json": floorplan.arranged((netlist / "top.json").read_bytes(), plan.device), **limits}


def step(
    what: str, command: Sequence[str], inputs: Mapping[str, bytes], outputs: Sequence[str], good: Sequence[int] = (0,)
) -> Path:
    """Return the folder of `outputs` that `command` makes of the files `inputs`."""
    name = f"{what}-{_hash(command, inputs)}"

    def make(work: Path) -> None:
        for file, data in inputs.items():
            (work / file).write_bytes(data)
        status = TOOLS[command[0]].run(command[1:], work)
        if status not in good or not all((work / output).is_file() for output in outputs):
            raise _refusal(command[0], status, work)
        folder = work / name
        folder.mkdir()
        for output in outputs:
            shutil.move(work / output, folder / output)

    return cached(name, make)


def _hash(command: Sequence[str], inputs: Mapping[str, bytes]) -> str:
    """Return the hash of a command, its tool's version and its inputs."""
    tool = TOOLS[command[0]]
    parts = [part for name, data in sorted(inputs.items()) for part in (name, data)]
    return digest([tool.package, tool.version(), *command, *parts])


def _refusal(tool: str, status: int, work: Path) -> ToolError:
    logs = [path for path in (work / "top.rpt", work / "top.tim", work / "printed") if path.is_file()]
    log = "\n".join(path.read_text(errors="replace") for path in logs)
    said = re.findall(r"^(?:ERROR|Error|error): (.*)$", log, re.MULTILINE)
    return ToolError(f"{tool} failed: {said[-1] if said else f'exit status {status}'}", log)
