"""1BitSquared iCEBreaker: iCE40UP5K."""

from amaranth_boards.icebreaker import ICEBreakerPlatform

from boards.board import Board

BOARD = Board(
    name="icebreaker",
    title="1BitSquared iCEBreaker, iCE40UP5K",
    platform=ICEBreakerPlatform,
    arch="ice40-4x4",
    clock_hz=30e6,
    input=("clk12", 0),
    pll_pad=True,
    reset=("button", 0),
    leds={"idle": ("led_g", 0), "error": ("led_r", 0)},
    cable="ice40_generic",
)
