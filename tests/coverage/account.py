"""What of a design has been reached, by file of the gateware, and what its constants keep from ever being reached.

Nothing is excluded by hand: `tests.coverage.constants` says which bits never change, and points that need another value
of one of them are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sim.coverage import Point
from tests.coverage.constants import Constants, bit

_TOGGLE = re.compile(r"^(?P<bit>.*):(?P<from>[01])->[01]$")
_CONDITION = re.compile(r"\bif \((?P<bit>[^()]+)\)")
_CHOICE = re.compile(r"= (?P<bit>\S+ ?(?:\[\d+\])?) \? ")
_TERM = re.compile(r"\((?P<terms>.*)\) => [01]$")


def dead(points: Iterable[Point], text: str, known: Constants) -> set[Point]:
    """Return the points that constant bits of a design in Verilog keep from being reached."""
    points, lines, out = list(points), text.splitlines(), set()
    blocks = []
    for point in points:
        line = lines[point.line - 1]
        if _never(point, line, known):
            out.add(point)
            if point.kind == "branch" and "if (" in line:
                blocks.append(_block(lines, point.line, point.name == "else"))
    for point in points:
        if point.kind != "toggle" and any(first <= point.line <= last for first, last in blocks):
            out.add(point)
    return out


def _never(point: Point, line: str, known: Constants) -> bool:
    def value(text: str) -> int | None:
        named = bit(point.module, text)
        return named.value(known) if named else None

    if point.kind == "toggle":
        match = _TOGGLE.match(point.name)
        return match is not None and value(match["bit"]) is not None
    if point.kind == "expression":
        match = _TERM.search(point.name)
        terms = [term.rpartition("==") for term in match["terms"].split(" && ")] if match else []
        return any(value(name) not in (None, int(wanted)) for name, _, wanted in terms if wanted in ("0", "1"))
    if point.kind == "branch":
        match = (_CHOICE if point.name.startswith("cond") else _CONDITION).search(line)
        constant = value(match["bit"]) if match else None
        return constant is not None and constant == point.name.endswith("else")
    return False


def _block(lines: list[str], number: int, otherwise: bool) -> tuple[int, int]:
    """Return the lines, from 1, inside what the `if` in line `number` chooses."""
    indent = len(lines[number - 1]) - len(lines[number - 1].lstrip())
    ends = [number]
    while not re.match(rf" {{{indent}}}end(?! else)", lines[ends[-1]]):
        ends.append(ends[-1] + 1)
    ends = [end for end in ends[1:] if lines[end - 1].startswith(" " * indent + "end")] + [ends[-1] + 1]
    return (ends[0] + 1, ends[-1] - 1) if otherwise else (number + 1, ends[0] - 1)


@dataclass
class Tally:
    """Points of one kind in one file: all, those reached, those that can't be; what remains."""

    points: int = 0
    reached: int = 0
    excluded: int = 0
    holes: list[Point] = field(default_factory=list)


def tallies(
    counts: Mapping[Point, int], text: str, files: Mapping[str, str], known: Constants
) -> dict[str, dict[str, Tally]]:
    """Return the tally of every file and kind.

    A point that constants exclude and that was reached all the same raises ValueError.
    """
    unreachable = dead(counts, text, known)
    table: dict[str, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    for point, count in counts.items():
        if point in unreachable and count > 1:  # once, when simulation begins
            raise ValueError(f"{point} was reached {count} times, and yet it can't be")
        tally = table[files[point.module]][point.kind]
        tally.points += 1
        if point in unreachable:
            tally.excluded += 1
        elif count:
            tally.reached += 1
        else:
            tally.holes.append(point)
    return table
