"""What Yosys must be told of a design: its family's options, and which memories' words don't matter when written."""

from __future__ import annotations

import re
from typing import Any

_OPTIONS = {"LFE5": "-nowidelut", "iCE40": "-dffe_min_ce_use 4"}
"""By the beginning of a device's name. An ECP5's wide multiplexers (yosys 4798) force lookup tables into pairs and
fours, which then can't be placed freely. An iCE40's eight cells of a tile share one clock enable: of a full device
nextpnr finds no legal placement where many registers have one of their own. An UltraPlus's eight DSP blocks are the
mesh's: without ``-dsp`` Yosys takes none."""

_MODULE = re.compile(r"^module .*?^end$", re.DOTALL | re.MULTILINE)
_MEMORY = re.compile(r"^  attribute \\no_rw_check 1\n(?:  attribute .*\n)*  memory .* \\(\S+)$", re.MULTILINE)
_READ = re.compile(
    r'^(    parameter \\MEMID "\\\\(\S+)"\n(?:    parameter .*\n)*?'
    r"    parameter \\TRANSPARENCY_MASK \d+'([01]+)\n    parameter \\COLLISION_X_MASK \d+')[01]+$",
    re.MULTILINE,
)


def options(platform: Any) -> str:
    """Return the options of Yosys's synthesis for the device of an Amaranth platform."""
    return next((option for prefix, option in _OPTIONS.items() if platform.device.startswith(prefix)), "")


def unordered(rtlil: str) -> str:
    """Return Amaranth's `rtlil` with the reads of memories of `rtl.unordered.UNORDERED` free to collide with writes.

    Yosys heeds the attribute no_rw_check where it makes a clocked port of a read, not where a port is clocked already.
    """

    def module(found: re.Match[str]) -> str:
        names = set(_MEMORY.findall(found[0]))
        return _READ.sub(lambda read: _collide(read) if read[2] in names else read[0], found[0])

    return _MODULE.sub(module, rtlil)


def _collide(read: re.Match[str]) -> str:
    """Return a read's parameters with a collision allowed at every write port that it doesn't see through."""
    return read[1] + read[3].translate(str.maketrans("01", "10"))
