"""Radiona ULX3S: LFE5U-85F, speed grade 6."""

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from boards.board import Board

BOARD = Board(
    name="ulx3s",
    title="Radiona ULX3S, LFE5U-85F",
    platform=ULX3S_85F_Platform,
    arch="ecp5-8x16",
    clock_hz=100e6,
    input=("clk25", 0),
    reset=("button_fire", 0),
    leds={"idle": ("led", 0), "busy": ("led", 1), "error": ("led", 2)},
    cable="ulx3s",
)
