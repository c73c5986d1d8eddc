"""A board's whole top, pins to pins: its clock, reset and pads around the accelerator and its serial port."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boards.board import Board
from boards.build import accelerator, plan_core
from boards.flow import step
from boards.registry import find
from boards.reset import RESET_SECONDS
from hwq.config import ArrayConfig
from sim.build import build
from sim.cells import READ, models
from sim.cells import family as family_of
from sim.pins_bus import PRODUCT, PinsTransport

_TO_VERILOG = "read_rtlil top.il\n{cells}\nproc -nomux -norom\nmemory_collect\nwrite_verilog -noattr -norename top.v\n"

_CELLS = {
    "ecp5": f"{READ['ecp5']}\ndelete *IB *OBZ *TRELLIS_IO\nhierarchy -top top",
    "ice40": f"{READ['ice40']}\ndelete *SB_IO *SB_GB_IO =*SB_PLL40_PAD =*SB_PLL40_CORE\nhierarchy -top top",
}
"""Models of what the gateware instantiates, pads and PLLs aside; black boxes are added to the Verilog."""


def board_verilog(board: Board, config: ArrayConfig) -> str:
    """Return what is synthesized for `board`, stand-ins for its pads and PLL, and `pins` around them, as Verilog.

    The reset of the harness presses the board's button.
    """
    platform = board.open_platform()
    family = family_of(platform)
    source = plan_core(board, accelerator(config), board.clock()).files["top.il"]
    script = _TO_VERILOG.format(cells=_CELLS[family]).encode()
    folder = step("verilog", ("yosys", "-q", "top.ys"), {"top.il": source, "top.ys": script}, ["top.v"])
    pads = Path(__file__).with_name(f"pads_{family}.v").read_text(encoding="utf-8")
    wires = {board.input: "clk", ("uart", 0, "rx"): "rx", ("uart", 0, "tx"): "tx"}
    if board.reset is not None:
        wires[board.reset] = "~rst" if _inverted(platform, board.reset) else "rst"
    names = {path: f"{path[0]}_{'__'.join(map(str, path[1:]))}__io" for path in wires}
    pins = ["module pins(input clk, rst, rx, output tx);"]
    pins += [f"  wire {names[path]} = {wire};" for path, wire in wires.items() if wire != "tx"]
    ports = (f".{name}({'tx' if wires[path] == 'tx' else name})" for path, name in names.items())
    pins += [f"  top top({', '.join(ports)});", "endmodule", ""]
    return "\n".join([(folder / "top.v").read_text(encoding="utf-8"), models(family), pads, *pins])


def _inverted(platform: Any, path: tuple[Any, ...]) -> bool:
    return bool(platform.lookup(*path[:2]).ios[0].invert)


def open_board(name: str, config: ArrayConfig) -> PinsTransport:
    """Return the pins of the board called `name` with a fresh accelerator of `config`, its reset over.

    A bit has the board's own number of clock cycles.
    """
    board = find(name)
    clock = board.clock()
    library = build(board_verilog(board, config), "pins", PRODUCT)
    transport = PinsTransport(library, clock.divisor, clock.hz)
    transport.read(2 * RESET_SECONDS)
    return transport
