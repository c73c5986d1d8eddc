"""PLLs: the arithmetic beside icepll's, ecppll's and gowin_pll's, and the limits of the data sheets."""

import itertools

import pytest

from boards.clocks import Ecp5Pll, GowinPll, Ice40Pll
from boards.registry import BOARDS, find
from hwq.errors import HwqError

MHZ = 1e6


@pytest.mark.parametrize(
    ("i", "o", "divr", "divf", "divq", "filter_range"),
    [
        (12, 30, 0, 79, 5, 1),
        (12, 48, 0, 63, 4, 1),
        (16, 33, 0, 65, 5, 1),
        (20, 60, 0, 47, 4, 2),
        (27, 50, 1, 58, 4, 1),
        (48, 96, 0, 15, 3, 4),
        (100, 133, 7, 84, 3, 1),
    ],
)
def test_ice40_divides_as_icepll_does(i, o, divr, divf, divq, filter_range):
    pll = Ice40Pll.near(i * MHZ, o * MHZ)
    assert (pll.divr, pll.divf, pll.divq, pll.filter_range) == (divr, divf, divq, filter_range)


def test_ecp5_divides_as_ecppll_does():
    assert Ecp5Pll.near(25 * MHZ, 100 * MHZ) == Ecp5Pll(100 * MHZ, 1, 4, 6)


@pytest.mark.parametrize(
    ("o", "idiv_sel", "fbdiv_sel", "odiv_sel"),
    [(54, 0, 1, 16), (60, 8, 19, 16), (33, 8, 10, 16), (100, 6, 25, 8), (61, 3, 8, 16)],
)
def test_gowin_divides_as_gowin_pll_does(o, idiv_sel, fbdiv_sel, odiv_sel):
    pll = GowinPll.near(27 * MHZ, o * MHZ)
    assert (pll.idiv, pll.fbdiv, pll.odiv) == (idiv_sel + 1, fbdiv_sel + 1, odiv_sel)
    assert pll.hz == pytest.approx(27 * MHZ * (fbdiv_sel + 1) / (idiv_sel + 1))


@pytest.mark.parametrize("input_mhz", [12, 16, 25, 48, 100])
def test_ice40_keeps_its_limits_and_is_nearest(input_mhz):
    outputs = [
        (input_mhz * f / r / 2**q, input_mhz / r, input_mhz * f / r)
        for r, f, q in itertools.product(range(1, 17), range(1, 129), range(1, 7))
    ]
    legal = [out for out, detector, vco in outputs if 10 <= detector <= 133 and 533 <= vco <= 1066]
    for wanted in (16, 24.5, 30, 48, 61.3, 100, 133, 275):
        pll = Ice40Pll.near(input_mhz * MHZ, wanted * MHZ)
        detector = input_mhz / (pll.divr + 1)
        assert 10 <= detector <= 133
        assert 533 <= detector * (pll.divf + 1) <= 1066
        assert pll.hz == pytest.approx(detector * (pll.divf + 1) / 2**pll.divq * MHZ)
        assert abs(pll.hz / MHZ - wanted) == pytest.approx(min(abs(out - wanted) for out in legal), abs=1e-6)


@pytest.mark.parametrize("input_mhz", [12, 25, 48, 100])
def test_ecp5_keeps_its_limits_and_is_nearest(input_mhz):
    for wanted in (10, 25, 48, 61.3, 100, 133, 150, 400):
        pll = Ecp5Pll.near(input_mhz * MHZ, wanted * MHZ)
        detector = input_mhz / pll.clki_div
        assert 3.125 <= detector <= 400
        assert 400 <= pll.hz * pll.clkop_div / MHZ <= 800
        assert pll.hz == pytest.approx(detector * pll.clkfb_div * MHZ)
        legal = [input_mhz * f / r for r in range(1, 129) for f in range(1, 129) if 3.125 <= input_mhz / r <= 400]
        assert abs(pll.hz / MHZ - wanted) == pytest.approx(min(abs(out - wanted) for out in legal), abs=1e-6)


@pytest.mark.parametrize(
    ("pll", "wanted"), [(Ice40Pll, 15), (Ice40Pll, 300), (Ecp5Pll, 9), (Ecp5Pll, 401), (GowinPll, 3)]
)
def test_a_clock_out_of_reach_is_refused(pll, wanted):
    with pytest.raises(HwqError, match=rf"^The PLL makes .* MHz, not {wanted}; choose another clock \(--clock\)$"):
        pll.near(25 * MHZ, wanted * MHZ)


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_has_its_clock_and_line(name):
    board = find(name)
    clock = board.clock()
    assert clock.hz == pytest.approx(board.clock_hz, rel=0.01)
    assert clock.hz / clock.divisor == pytest.approx(board.baud, rel=0.02)


def test_a_clock_that_no_baud_rate_divides_is_refused():
    with pytest.raises(HwqError, match=r"^1,000,000 baud can't be divided from 16\.5 MHz; choose a clock near 16 MHz"):
        find("ice40-hx8k").clock(16.5e6)
