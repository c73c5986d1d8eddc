"""What is counted on each design, `results.json` that holds it, and the tables of it."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from amaranth.lib import wiring

from sim.coverage import KINDS, marked, read
from tests.campaigns.cores import ARRAYS
from tests.coverage import account, suite
from tests.coverage.constants import constants
from tests.coverage.designs import files

RESULTS = Path(__file__).with_name("results.json")

Sums = dict[str, dict[str, list[int]]]
"""By file and kind: points, those reached, those excluded."""


def _array(index: int) -> Callable[[int, Path], tuple[str, wiring.Component]]:
    def run(trials: int, path: Path) -> tuple[str, wiring.Component]:
        from hwq.driver import Driver
        from rtl.top import Accelerator
        from sim.build import verilog
        from sim.coverage import covered
        from sim.verilator_bus import open_library

        config = ARRAYS[index]
        text = marked(verilog(config))
        driver = Driver(open_library(text, covered()), config)
        suite.run(driver, trials)
        suite.network(driver)
        driver.bus.write_coverage(path)
        return text, Accelerator(config)

    return run


DESIGNS = {f"array {index}": _array(index) for index in range(len(ARRAYS))}
"""By name: runs so many trials, writes their counts to a file, and returns the design, marked, and its component."""


def measure(name: str, trials: int, holes: Path | None = None) -> str:
    """Count the coverage of one design, write it to `results.json`, and return it in a line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coverage.dat"
        text, component = DESIGNS[name](trials, path)
        counts = read(path, text)
    tallies = account.tallies(counts, text, files(component), constants(text))
    sums = {
        file: {kind: [tally.points, tally.reached, tally.excluded] for kind, tally in sorted(kinds.items())}
        for file, kinds in sorted(tallies.items())
    }
    if holes is not None:
        holes.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        (holes / f"{name}.txt").write_text(
            "".join(
                f"{file} {kind} {point.module}:{point.line} {point.name} | {lines[point.line - 1].strip()}\n"
                for file, kinds in sorted(tallies.items())
                for kind, tally in kinds.items()
                for point in sorted(tally.holes)
            ),
            encoding="utf-8",
        )
    state = load() | {name: {"trials": trials, "files": sums}}
    RESULTS.write_text(json.dumps(dict(sorted(state.items())), indent=1) + "\n", encoding="utf-8")
    shares = (f"{kind} {share(total(sums, kind))}" for kind in KINDS if total(sums, kind)[0])
    return f"{name}: {', '.join(shares)}"


def load() -> dict[str, dict]:
    """Return what has been counted."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def total(sums: Sums, kind: str) -> list[int]:
    """Return points, those reached and those excluded of a kind, of all files."""
    return [sum(kinds.get(kind, (0, 0, 0))[index] for kinds in sums.values()) for index in range(3)]


def share(counts: Mapping[int, int] | list[int]) -> str:
    """Return the share reached of what isn't excluded."""
    points, reached, excluded = counts
    return f"{100 * reached / (points - excluded):.1f}%" if points > excluded else "–"


def table() -> str:
    """Return the coverage of every file over all designs, as Markdown."""
    sums: Sums = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))
    state = load()
    for design in state.values():
        for file, kinds in design["files"].items():
            for kind, counts in kinds.items():
                for where in (file, ""):
                    sums[where][kind] = [old + new for old, new in zip(sums[where][kind], counts, strict=True)]
    kinds = [kind for kind in KINDS if sums[""][kind][0]]
    lines = [f"| file | {' | '.join(kinds)} | excluded |", f"|---|{'--:|' * (len(kinds) + 1)}"]
    for file in [*sorted(file for file in sums if file), ""]:
        cells = " | ".join(share(sums[file][kind]) for kind in kinds)
        excluded = sum(counts[2] for counts in sums[file].values())
        lines.append(f"| {f'`{file}`' if file else 'all'} | {cells} | {excluded:,} |")
    return "\n".join(lines)


def summary() -> str:
    """Return what was run on what."""
    state = load()
    trials = sum(design["trials"] for design in state.values())
    return f"{len(state)} design{'s' * (len(state) != 1)}, {trials:,} random programs and what goes with them:"
