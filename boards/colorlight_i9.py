"""Colorlight i9 v7.2: LFE5U-45F, speed grade 6, on Muse Lab's extension board, whose USB port has the serial line."""

from amaranth.build import Attrs, Clock, Pins, PinsN, Resource
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.resources import LEDResources, UARTResource

from boards.board import Board

LVCMOS33 = Attrs(IO_TYPE="LVCMOS33")


class ColorlightI9Platform(LatticeECP5Platform):
    """What the accelerator needs of the board, which amaranth-boards doesn't have."""

    device = "LFE5U-45F"
    package = "BG381"
    speed = "6"
    default_clk = "clk25"
    resources = (
        Resource("clk25", 0, Pins("P3", dir="i"), Clock(25e6), LVCMOS33),
        *LEDResources(pins="L2", invert=True, attrs=LVCMOS33),
        Resource("button", 0, PinsN("K18", dir="i"), Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
        UARTResource(0, rx="H18", tx="J17", attrs=LVCMOS33),
    )
    connectors = ()


BOARD = Board(
    name="colorlight-i9",
    title="Colorlight i9 v7.2, LFE5U-45F",
    platform=ColorlightI9Platform,
    arch="ecp5-8x8",
    clock_hz=100e6,
    input=("clk25", 0),
    reset=("button", 0),
    leds={"busy": ("led", 0)},
    cable="colorlight-i9",
)
