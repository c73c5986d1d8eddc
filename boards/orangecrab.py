"""OrangeCrab r0.2: LFE5U-25F, speed grade 8; the serial line is on the pins marked 0 (RX) and 1 (TX)."""

from amaranth.build import Attrs
from amaranth_boards.orangecrab_r0_2 import OrangeCrabR0_2_25FPlatform
from amaranth_boards.resources import UARTResource

from boards.board import Board

BOARD = Board(
    name="orangecrab",
    title="OrangeCrab r0.2, LFE5U-25F",
    platform=OrangeCrabR0_2_25FPlatform,
    arch="ecp5-4x4",
    clock_hz=96e6,
    input=("clk", 0),
    reset=("button", 0),
    leds={"idle": ("rgb_led", 0, "g"), "busy": ("rgb_led", 0, "b"), "error": ("rgb_led", 0, "r")},
    extra=(UARTResource(0, rx="0", tx="1", conn=("io", 0), attrs=Attrs(IO_TYPE="LVCMOS33")),),
    cable="orangeCrab",
)
