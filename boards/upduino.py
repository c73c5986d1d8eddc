"""UPduino 3: iCE40UP5K.

Its OSC jumper must be soldered, which brings the 12 MHz oscillator to pin 20; a serial adapter goes to pins 28 (its TX)
and 38 (its RX).
"""

from amaranth.build import Attrs
from amaranth_boards.resources import UARTResource
from amaranth_boards.upduino_v3 import UpduinoV3Platform

from boards.board import Board

BOARD = Board(
    name="upduino",
    title="tinyVision UPduino 3, iCE40UP5K",
    platform=UpduinoV3Platform,
    arch="ice40-4x4",
    clock_hz=30e6,
    input=("clk12", 0),
    leds={"idle": ("rgb_led", 0, "g"), "busy": ("rgb_led", 0, "b"), "error": ("rgb_led", 0, "r")},
    extra=(UARTResource(0, rx="28", tx="38", attrs=Attrs(IO_STANDARD="SB_LVCMOS", PULLUP=1)),),
    cable="ice40_generic",
)
