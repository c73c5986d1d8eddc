"""Reset as each family has it, in what is synthesized."""

import re
from unittest.mock import MagicMock

import pytest
from amaranth.hdl import Signal

from boards import reset
from boards.build import plan_core
from boards.registry import BOARDS, find
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
    wanted = {"SGSR": 1, "FD1S3AX": 2} if board.global_reset else {}
    assert {kind: found[kind] for kind in ("SGSR", "FD1S3AX") if kind in found} == wanted


def test_the_global_reset_ends_two_cycles_after_the_clock_is_ready(monkeypatch):
    made = []
    monkeypatch.setattr(reset, "Instance", lambda kind, **ports: made.append((kind, ports)))
    clock, ready = Signal(), Signal()
    reset.by_global_reset(MagicMock(), clock, ready)
    assert [kind for kind, _ in made] == ["FD1S3AX", "FD1S3AX", "SGSR"]
    before = ready
    for _, ports in made[:2]:
        assert (ports["p_GSR"], ports["i_CK"]) == ("DISABLED", clock)
        assert ports["i_D"] is before
        before = ports["o_Q"]
    assert made[2][1]["i_CLK"] is clock
    assert made[2][1]["i_GSR"] is before
