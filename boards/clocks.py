"""Clocks from a board's oscillator: the arithmetic of each family's PLL, and the cell with its parameters.

Sources: iCE40 sysCLOCK PLL Design and Usage Guide (FPGA-TN-02052), ECP5 sysClock PLL/DLL Design and Usage Guide
(FPGA-TN-02200), Gowin Clock User Guide (UG286), and the families' data sheets for the limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Const, Instance

from hwq.errors import HwqError


@dataclass(frozen=True)
class Ice40Pll:
    """SB_PLL40_CORE or SB_PLL40_PAD with simple feedback: ``hz = input * (divf + 1) / ((divr + 1) * 2**divq)``.

    Members
    -------
    hz : float
        Output [Hz].
    divr, divf, divq : int
        0..15, 0..127, 1..6.
    filter_range : int
        Of the loop filter, by the phase detector's frequency.
    """

    hz: float
    divr: int
    divf: int
    divq: int
    filter_range: int

    @classmethod
    def near(cls, input_hz: float, wanted_hz: float) -> Ice40Pll:
        """Return the PLL whose output is nearest to `wanted_hz`, the one with the fastest phase detector among equals.

        Raises
        ------
        HwqError
            Where `wanted_hz` is outside 16..275 MHz.
        """
        _require(16e6 <= wanted_hz <= 275e6, wanted_hz, "16 to 275")
        return min(cls._all(input_hz), key=lambda pll: (abs(pll.hz - wanted_hz), pll.divr, pll.divq))

    @classmethod
    def _all(cls, input_hz: float) -> Iterator[Ice40Pll]:
        for divr in range(16):
            detector = input_hz / (divr + 1)
            if 10e6 <= detector <= 133e6:
                limits = (17e6, 26e6, 44e6, 66e6, 101e6)
                filter_range = 1 + sum(detector >= limit for limit in limits)
                for divf in range(128):
                    oscillator = detector * (divf + 1)
                    if 533e6 <= oscillator <= 1066e6:
                        for divq in range(1, 7):
                            yield cls(oscillator / 2**divq, divr, divf, divq, filter_range)

    def cell(self, source: Any, clock: Any, locked: Any, *, pad: bool = False) -> Instance:
        """Return the cell; `source` is the input, with `pad` the pad itself."""
        return Instance(
            "SB_PLL40_PAD" if pad else "SB_PLL40_CORE",
            p_FEEDBACK_PATH="SIMPLE",
            p_DIVR=Const(self.divr, 4),
            p_DIVF=Const(self.divf, 7),
            p_DIVQ=Const(self.divq, 3),
            p_FILTER_RANGE=Const(self.filter_range, 3),
            i_RESETB=Const(1),
            i_BYPASS=Const(0),
            o_PLLOUTGLOBAL=clock,
            o_LOCK=locked,
            **{"io_PACKAGEPIN" if pad else "i_REFERENCECLK": source},
        )


@dataclass(frozen=True)
class Ecp5Pll:
    """EHXPLLL with its output as feedback: ``hz = input * clkfb_div / clki_div``, ``oscillator = hz * clkop_div``.

    Members
    -------
    hz : float
        Output [Hz].
    clki_div, clkfb_div, clkop_div : int
        1..128.
    """

    hz: float
    clki_div: int
    clkfb_div: int
    clkop_div: int

    @classmethod
    def near(cls, input_hz: float, wanted_hz: float) -> Ecp5Pll:
        """Return the PLL whose output is nearest to `wanted_hz`, the one with the fastest phase detector among equals.

        The oscillator, 400..800 MHz, runs as near to 600 MHz as it can.

        Raises
        ------
        HwqError
            Where `wanted_hz` is outside 10..400 MHz.
        """
        _require(10e6 <= wanted_hz <= 400e6, wanted_hz, "10 to 400")
        return min(cls._all(input_hz, wanted_hz), key=lambda pll: (abs(pll.hz - wanted_hz), pll.clki_div))

    @classmethod
    def _all(cls, input_hz: float, wanted_hz: float) -> Iterator[Ecp5Pll]:
        for clki_div in range(1, 129):
            detector = input_hz / clki_div
            if 3.125e6 <= detector <= 400e6:
                clkfb_div = round(wanted_hz / detector)
                if 1 <= clkfb_div <= 128:
                    hz = detector * clkfb_div
                    clkop_div = min(128, max(1, round(600e6 / hz)))
                    if 400e6 <= hz * clkop_div <= 800e6:
                        yield cls(hz, clki_div, clkfb_div, clkop_div)

    def cell(self, source: Any, clock: Any, locked: Any) -> Instance:
        """Return the cell; `source` is the input."""
        return Instance(
            "EHXPLLL",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_FEEDBK_PATH="CLKOP",
            p_OUTDIVIDER_MUXA="DIVA",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKI_DIV=self.clki_div,
            p_CLKFB_DIV=self.clkfb_div,
            p_CLKOP_DIV=self.clkop_div,
            p_CLKOP_CPHASE=max(0, self.clkop_div // 2 - 1),
            p_CLKOP_FPHASE=0,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(1),
            i_PHASESTEP=Const(1),
            i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            i_CLKI=source,
            i_CLKFB=clock,
            o_CLKOP=clock,
            o_LOCK=locked,
        )


@dataclass(frozen=True)
class GowinPll:
    """rPLL with internal feedback: ``hz = input * fbdiv / idiv``, ``oscillator = hz * odiv``.

    Members
    -------
    hz : float
        Output [Hz].
    input_hz : float
        Input [Hz].
    idiv, fbdiv : int
        1..64.
    odiv : int
        2, 4, 8, 16, 32, 48, 64, 80, 96, 112 or 128.
    """

    hz: float
    input_hz: float
    idiv: int
    fbdiv: int
    odiv: int

    @classmethod
    def near(cls, input_hz: float, wanted_hz: float) -> GowinPll:
        """Return the PLL whose output is nearest to `wanted_hz`, the one with the fastest phase detector among equals.

        The oscillator, 500..1250 MHz, runs as slowly as it can.

        Raises
        ------
        HwqError
            Where `wanted_hz` is outside 4..600 MHz.
        """
        _require(4e6 <= wanted_hz <= 600e6, wanted_hz, "4 to 600")
        return min(cls._all(input_hz), key=lambda pll: (abs(pll.hz - wanted_hz), pll.idiv, pll.odiv))

    @classmethod
    def _all(cls, input_hz: float) -> Iterator[GowinPll]:
        for idiv in range(1, 65):
            if 3e6 <= input_hz / idiv <= 500e6:
                for fbdiv in range(1, 65):
                    hz = input_hz * fbdiv / idiv
                    for odiv in (2, 4, 8, *range(16, 129, 16)):
                        if 500e6 <= hz * odiv <= 1250e6:
                            yield cls(hz, input_hz, idiv, fbdiv, odiv)

    def cell(self, source: Any, clock: Any, locked: Any) -> Instance:
        """Return the cell; `source` is the input."""
        unused = {"RESET": 1, "RESET_P": 1, "CLKFB": 1, "FBDSEL": 6, "IDSEL": 6, "ODSEL": 6, "PSDA": 4, "DUTYDA": 4}
        return Instance(
            "rPLL",
            p_FCLKIN=f"{self.input_hz / 1e6:g}",
            p_IDIV_SEL=self.idiv - 1,
            p_FBDIV_SEL=self.fbdiv - 1,
            p_ODIV_SEL=self.odiv,
            p_DYN_IDIV_SEL="false",
            p_DYN_FBDIV_SEL="false",
            p_DYN_ODIV_SEL="false",
            p_DYN_DA_EN="true",
            p_CLKFB_SEL="internal",
            p_CLKOUT_BYPASS="false",
            i_CLKIN=source,
            i_FDLY=Const(0, 4),
            o_CLKOUT=clock,
            o_LOCK=locked,
            **{f"i_{name}": Const(0, width) for name, width in unused.items()},
        )


def _require(good: bool, wanted_hz: float, limits: str) -> None:
    if not good:
        raise HwqError(f"The PLL makes {limits} MHz, not {wanted_hz / 1e6:g}; choose another clock (--clock)")
