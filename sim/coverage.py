"""Code coverage by Verilator: which lines, branches, terms and bits of a design a simulation has reached.

Lines are those of Verilog's processes that a clock doesn't start. Toggles are counted of signals with a name in the
source; what an operator gives is counted by the terms of its expression. Memories' rows aren't counted, their ports
are; nor are signals of more than 64 bits, of which Verilator 5.48 counts wrong bits: Amaranth names their fields, too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sim.build import COVERAGE, FLAGS, LIBRARY, Product

_OPTIONS = {
    "line": ("--coverage-line",),
    "branch": ("--coverage-line",),
    "expression": ("--coverage-expr",),
    "toggle": ("--coverage-toggle", "--coverage-max-width", "64"),
}

KINDS = tuple(_OPTIONS)

_UNCOUNTED = re.compile(
    r"""^(?P<text>\ +(?:
        (?:reg|wire)\ (?:signed\ )?(?:\[\d+:0\]\ )?\\\$\d+\ (?:\ =\ .*)?;  # what an operator gives
        |reg\ (?:\[\d+:0\]\ )?\S+\ +\[\d+:\d+\];  # a memory
        |if\ \(\\\$auto\$verilog_backend\S+\ \)\ begin\ end  # Yosys's own, for simulators that would start no process
        |reg\ \\\$auto\$verilog_backend.*;
    ))$""",
    re.VERBOSE | re.MULTILINE,
)
_ENCODED = re.compile("__0([0-9a-fA-F]{2})")


@dataclass(frozen=True, order=True)
class Point:
    """What is counted.

    Members
    -------
    kind : str
        One of `KINDS`.
    module : str
        Names of the instances down to it from the top module, with dots between them; "" is the top module.
    line, column : int
        Of the Verilog; of a toggle where the signal is declared. A line has no column.
    name : str
        Of a branch Verilator's word for it, of an expression the values of its terms, of a toggle bit and direction.
    """

    kind: str
    module: str
    line: int
    column: int
    name: str


def covered(product: Product = LIBRARY, kinds: Sequence[str] = KINDS) -> Product:
    """Return `product` with counters; Verilog is to be `marked` before it is built."""
    options = dict.fromkeys(option for kind in kinds for option in _OPTIONS[kind])
    runtime = (*product.runtime, COVERAGE)
    flags = (*FLAGS, *options)
    return replace(product, verilator_flags=flags, runtime=runtime, optimization="-O1", slow="-O0")


def marked(text: str) -> str:
    """Return Verilog with what isn't to be counted marked so."""
    return _UNCOUNTED.sub(r"/*verilator coverage_off*/\g<text>/*verilator coverage_on*/", text)


def read(path: Path, text: str, top: str = "top") -> Counter[Point]:
    """Return the counts in a file that Verilator has written of design `text`, of what lies in module `top`."""
    counts: Counter[Point] = Counter()
    lines = text.splitlines()
    for record in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if record.startswith("C '"):
            keys, _, count = record[3:].rpartition("' ")
            values = dict(item.partition("\x02")[::2] for item in keys.split("\x01") if item)
            module = values["page"].partition("/")[2]
            if module.partition(".")[0] == top:
                for point in _points(values, module.partition(".")[2], lines):
                    counts[point] = max(counts[point], int(count))
    return counts


def _points(values: dict[str, str], module: str, lines: list[str]) -> Iterator[Point]:
    kind, name = values["t"], values["o"]
    line, column = int(values["l"]), int(values["n"])
    if kind == "toggle":
        yield Point("toggle", module, line, column, _ENCODED.sub(lambda match: chr(int(match[1], 16)), name))
    elif kind == "expr":
        yield Point("expression", module, line, column, name)
    else:
        if name != "block":
            yield Point("branch", module, line, column, name)
        elif "always @*" not in lines[line - 1]:
            return
        for span in filter(None, values.get("S", "").split(",")):
            first, _, last = span.partition("-")
            for number in range(int(first), int(last or first) + 1):
                yield Point("line", module, number, 0, "")
