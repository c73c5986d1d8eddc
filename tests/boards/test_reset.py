"""Reset as each family has it, in what is synthesized."""

import re
from unittest.mock import MagicMock

import pytest
from amaranth.hdl import Signal

from boards import reset
from boards.build import plan_core
from boards.registry import BOARDS, find
from boards.reset import GATE_CYCLES
from tests.boards.link_memory import LinkMemory


def cells(board):
    """Return how often each kind of cell that isn't Yosys's own is instantiated in `board`'s top."""
    source = plan_core(board, LinkMemory, board.clock()).files["top.il"].decode()
    kinds = re.findall(r"^  cell \\(\S+) ", source, re.MULTILINE)
    return {kind: kinds.count(kind) for kind in kinds}


@pytest.mark.parametrize("name", BOARDS)
def test_an_ecp5_s_registers_have_the_global_reset_and_others_a_net(name):
    board = find(name)
    found = cells(board)
    wanted = {"SGSR": 1, "DCCA": 1, "FD1S3AX": GATE_CYCLES + 2} if board.global_reset else {}
    assert {kind: found[kind] for kind in ("SGSR", "DCCA", "FD1S3AX") if kind in found} == wanted


def test_the_clock_stands_until_the_global_reset_has_ended_for_all(monkeypatch):
    made = []
    monkeypatch.setattr(reset, "Instance", lambda kind, **ports: made.append((kind, ports)))
    clock, ready = Signal(), Signal()
    reset.by_global_reset(MagicMock(), clock, ready)
    *registers, (_, global_reset), (_, gate) = made
    assert [kind for kind, _ in made] == ["FD1S3AX"] * (GATE_CYCLES + 2) + ["SGSR", "DCCA"]
    before = ready
    for _, ports in registers:
        assert (ports["p_GSR"], ports["i_CK"], ports["i_D"]) == ("DISABLED", clock, before)
        before = ports["o_Q"]
    synchronized = registers[1][1]["o_Q"]
    assert global_reset["i_CLK"] is clock
    assert global_reset["i_GSR"] is synchronized
    assert gate["i_CLKI"] is clock
    assert repr(gate["i_CE"]) == repr(before & synchronized)
