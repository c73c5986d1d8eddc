"""The host bus of the synthesized netlist: the cells of a board's FPGA, simulated in Verilator.

Yosys puts its own models in the cells' place and `sim.cells` has the others, so nothing of the gateware's source
is left. The harness is the one of `sim.verilator_bus`.
"""

from __future__ import annotations

import dataclasses

from amaranth.back import rtlil

from boards.flow import step
from boards.registry import find
from boards.synthesis import options, unordered
from hwq.config import ArrayConfig
from sim.build import LIBRARY
from sim.cells import READ, models
from sim.cells import family as family_of
from sim.verilator_bus import VerilatorBus, open_library

BOARD = "ulx3s"
"""Whose cells, where the target names no board."""

_SYNTHESIS = "read_rtlil top.il\nsynth_{family} {options} -top top\nselect top\nwrite_rtlil -selected netlist.il\n"

_MODELS = """
read_rtlil netlist.il
{read}
hierarchy -top top
proc
flatten
simplemap t:$mux
opt_expr -mux_bool
opt_merge
opt_clean -purge
rename -hide
write_verilog -noattr netlist.v
"""
"""A LUT's model is a tree of multiplexers between constants, and a cell's name a line long: compiling them as they are
takes ten times as long."""

PRODUCT = dataclasses.replace(LIBRARY, optimization="-O1")


def netlist(config: ArrayConfig, board: str) -> str:
    """Return the accelerator of `config` in the cells of `board`'s FPGA, and their models, as Verilog."""
    from rtl.top import Accelerator

    platform = find(board).open_platform()
    family = family_of(platform)
    source = unordered(rtlil.convert(Accelerator(config), name="top", platform=platform, emit_src=False))
    script = _SYNTHESIS.format(family=family, options=options(platform))
    inputs = {"top.il": source.encode(), "top.ys": script.encode()}
    cells = step("netlist", ("yosys", "-q", "top.ys"), inputs, ["netlist.il"]) / "netlist.il"
    inputs = {"netlist.il": cells.read_bytes(), "top.ys": _MODELS.format(read=READ[family]).encode()}
    folder = step("models", ("yosys", "-q", "top.ys"), inputs, ["netlist.v"])
    return (folder / "netlist.v").read_text(encoding="utf-8") + models(family)


def open_bus(config: ArrayConfig, board: str = BOARD) -> VerilatorBus:
    """Return the bus of a fresh accelerator of `config`, in cells.

    Raises
    ------
    HwqError
        Where there is no such board.
    MissingToolError
        When a tool isn't installed.
    DeviceError
        When the simulator can't be built.
    """
    return open_library(netlist(config, board), PRODUCT)
