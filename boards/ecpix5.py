"""LambdaConcept ECPIX-5: LFE5UM5G-85F, speed grade 8."""

from amaranth_boards.ecpix5 import ECPIX585Platform

from boards.board import Board

BOARD = Board(
    name="ecpix5",
    title="LambdaConcept ECPIX-5, LFE5UM5G-85F",
    platform=ECPIX585Platform,
    arch="ecp5-8x16",
    clock_hz=100e6,
    input=("clk100", 0),
    reset=("rst", 0),
    leds={"idle": ("rgb_led", 0, "g"), "busy": ("rgb_led", 0, "b"), "error": ("rgb_led", 0, "r")},
    cable="ecpix5",
)
