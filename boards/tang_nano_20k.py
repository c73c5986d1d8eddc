"""Sipeed Tang Nano 20K: GW2AR-18C; its USB port has the serial line."""

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth_boards.resources import LEDResources, UARTResource

from boards.board import Board
from boards.gowin import HimbaechelPlatform

LVCMOS33 = Attrs(IO_TYPE="LVCMOS33")


class TangNano20kPlatform(HimbaechelPlatform):
    """What the accelerator needs of the board, which amaranth-boards doesn't have."""

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    chip = "GW2A-18C"
    device = family
    default_clk = "clk27"
    resources = (
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), LVCMOS33),
        *LEDResources(pins="15 16 17", invert=True, attrs=LVCMOS33),
        Resource("button", 0, Pins("88", dir="i"), LVCMOS33),
        UARTResource(0, rx="70", tx="69", attrs=LVCMOS33),
    )
    connectors = ()


BOARD = Board(
    name="tang-nano-20k",
    title="Sipeed Tang Nano 20K, GW2AR-18C",
    platform=TangNano20kPlatform,
    arch="gowin-4x4",
    clock_hz=54e6,
    input=("clk27", 0),
    reset=("button", 0),
    leds={"idle": ("led", 0), "busy": ("led", 1), "error": ("led", 2)},
    cable="tangnano20k",
)
