"""Lattice iCE40-HX8K breakout board."""

from amaranth_boards.ice40_hx8k_b_evn import ICE40HX8KBEVNPlatform

from boards.board import Board

BOARD = Board(
    name="ice40-hx8k",
    title="Lattice iCE40-HX8K breakout board, iCE40HX8K",
    platform=ICE40HX8KBEVNPlatform,
    arch="ice40-4x4",
    clock_hz=30e6,
    input=("clk12", 0),
    leds={"idle": ("led", 0), "busy": ("led", 1), "error": ("led", 2)},
    cable="ice40_generic",
)
