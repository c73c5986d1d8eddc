"""Colorlight i5 v7.0: LFE5U-25F, speed grade 6; otherwise as the i9, but for its LED's pin."""

from amaranth_boards.resources import LEDResources

from boards.board import Board
from boards.colorlight_i9 import LVCMOS33, ColorlightI9Platform


class ColorlightI5Platform(ColorlightI9Platform):
    """What the accelerator needs of the board."""

    device = "LFE5U-25F"
    resources = (
        *(resource for resource in ColorlightI9Platform.resources if resource.name != "led"),
        *LEDResources(pins="U16", invert=True, attrs=LVCMOS33),
    )


BOARD = Board(
    name="colorlight-i5",
    title="Colorlight i5 v7.0, LFE5U-25F",
    platform=ColorlightI5Platform,
    arch="ecp5-4x4",
    clock_hz=100e6,
    input=("clk25", 0),
    reset=("button", 0),
    leds={"busy": ("led", 0)},
    cable="colorlight-i5",
)
