"""What a board is: a platform of amaranth-boards, its clock, its serial port and its LEDs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amaranth.vendor import GowinPlatform, LatticeECP5Platform, SiliconBluePlatform

from boards.clocks import Ecp5Pll, GowinPll, Ice40Pll
from hwq.errors import HwqError

Path = tuple[Any, ...]
"""Of a pin: resource, number and, inside it, the names of its parts."""

PLLS: Mapping[type, type[Ice40Pll] | type[Ecp5Pll] | type[GowinPll]] = {
    SiliconBluePlatform: Ice40Pll,
    LatticeECP5Platform: Ecp5Pll,
    GowinPlatform: GowinPll,
}
"""The PLL of each family's platforms."""

MAX_BAUD_ERROR = 0.02
"""Share of a bit by which the device's may be longer or shorter."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board, as `boards.top.BoardTop` puts the accelerator on it.

    Members
    -------
    name : str
        On the command line.
    title : str
        Maker's name and the FPGA.
    platform : type
        Class of the Amaranth platform.
    arch : str
        Preset of its accelerator.
    clock_hz : float
        The accelerator's clock where none is wanted [Hz].
    input : tuple
        The oscillator's pin, which has a clock constraint.
    pll_pad : bool
        Whether an iCE40's PLL takes its input from the pad itself, as it must where the pin is the PLL's own.
    baud : int
        Bits a second on the serial line.
    reset : tuple or None
        A button, pressed for reset.
    leds : mapping of str to tuple
        Pins that show ``idle``, ``busy`` and ``error``, lit when they are so.
    extra : list
        Resources that amaranth-boards' platform lacks.
    cable : str
        openFPGALoader's name of the board.
    """

    name: str
    title: str
    platform: type
    arch: str
    clock_hz: float
    input: Path
    pll_pad: bool = False
    baud: int = 1_000_000
    reset: Path | None = None
    leds: Mapping[str, Path] = field(default_factory=dict)
    extra: tuple[Any, ...] = ()
    cable: str = ""

    def open_platform(self) -> Any:
        """Return a fresh platform with the board's resources."""
        platform = self.platform()
        platform.add_resources(self.extra)
        return platform

    def clock(self, wanted_hz: float | None = None) -> Clock:
        """Return the clock nearest to `wanted_hz`, the board's own by default.

        Raises
        ------
        HwqError
            Where the PLL can't make it, or the serial line can't be divided from it.
        """
        platform = self.open_platform()
        input_hz, wanted = platform.lookup(*self.input).clock.frequency, wanted_hz or self.clock_hz
        pll = None if wanted == input_hz else self._pll().near(input_hz, wanted)
        hz = input_hz if pll is None else pll.hz
        divisor = round(hz / self.baud)
        if divisor < 4 or abs(hz / divisor / self.baud - 1) > MAX_BAUD_ERROR:
            near = max(4, divisor) * self.baud / 1e6
            raise HwqError(
                f"{self.baud:,} baud can't be divided from {hz / 1e6:g} MHz; choose a clock near {near:g} MHz (--clock)"
            )
        return Clock(hz, divisor, pll)

    @property
    def global_reset(self) -> bool:
        """Whether the FPGA's global set/reset serves as the core's."""
        return issubclass(self.platform, LatticeECP5Platform)

    def _pll(self) -> type[Ice40Pll] | type[Ecp5Pll] | type[GowinPll]:
        return next(pll for platform, pll in PLLS.items() if issubclass(self.platform, platform))


@dataclass(frozen=True)
class Clock:
    """The accelerator's clock on a board.

    Members
    -------
    hz : float
    divisor : int
        Cycles a bit of the serial line.
    pll : Ice40Pll, Ecp5Pll, GowinPll or None
        None where the oscillator itself is the clock.
    """

    hz: float
    divisor: int
    pll: Ice40Pll | Ecp5Pll | GowinPll | None
