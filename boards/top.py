"""What goes into a board's FPGA: a core behind its serial port, clock, reset and LEDs, wired to pins."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Elaboratable, Module, Signal
from amaranth.lib import io, wiring

from boards.board import Board, Clock, Path
from boards.reset import by_global_reset, by_net


class BoardTop(Elaboratable):
    """A core on the pins of `board`.

    Reset lasts until the PLL has locked, and while the board's button is pressed; see `boards.reset`.

    Parameters
    ----------
    board : Board
    core : wiring.Component
        `rtl.link.serial_core.SerialCore`, or what has its ``rx``, ``tx``, ``busy`` and ``error``.
    clock : Clock
        As `Board.clock` returns it.
    """

    def __init__(self, board: Board, core: wiring.Component, clock: Clock):
        self.board, self.core, self.clock = board, core, clock

    def elaborate(self, platform: Any) -> Module:
        """Return the module."""
        m = Module()
        pins = _Pins(m, platform)
        m.submodules.core = core = self.core
        m.d.comb += [core.rx.eq(pins.input(("uart", 0, "rx"))), pins.output(("uart", 0, "tx")).eq(core.tx)]
        states = {"busy": core.busy, "error": core.error, "idle": ~core.busy & ~core.error}
        m.d.comb += [pins.output(path).eq(states[state]) for state, path in self.board.leds.items()]

        clock, ready = Signal(), Signal()
        if self.clock.pll is None:
            m.d.comb += [clock.eq(pins.input(self.board.input)), ready.eq(1)]
        else:
            pll = self.clock.pll
            if self.board.pll_pad:
                m.submodules.pll = pll.cell(pins.port(self.board.input).io, clock, ready, pad=True)
            else:
                m.submodules.pll = pll.cell(pins.input(self.board.input), clock, ready)
        pressed = Const(0) if self.board.reset is None else pins.input(self.board.reset)

        if self.board.global_reset:
            by_global_reset(m, clock, ready & ~pressed)
        else:
            by_net(m, clock, ready & ~pressed, self.clock.hz)
        return m


class _Pins:
    """A platform's pins, each resource requested once, and their buffers."""

    def __init__(self, m: Module, platform: Any) -> None:
        self._m, self._platform, self._requested = m, platform, {}

    def port(self, path: Path) -> Any:
        """Return the port at `path`."""
        name, number, *parts = path
        key = (name, number)
        if key not in self._requested:
            self._requested[key] = self._platform.request(name, number, dir="-")
        port = self._requested[key]
        for part in parts:
            port = getattr(port, part)
        return port

    def input(self, path: Path) -> Signal:
        """Return what comes in at `path`."""
        return self._buffer("i", path).i

    def output(self, path: Path) -> Signal:
        """Return what goes out at `path`."""
        return self._buffer("o", path).o

    def _buffer(self, direction: str, path: Path) -> io.Buffer:
        buffer = io.Buffer(direction, self.port(path))
        self._m.submodules["_".join(map(str, path))] = buffer
        return buffer
