"""The boards, by name; each is a module of this package that holds a `BOARD`."""

from __future__ import annotations

import difflib
import importlib

from boards.board import Board
from hwq.errors import HwqError

BOARDS = (
    "icebreaker", "upduino", "ice40-hx8k", "ulx3s", "ecpix5", "orangecrab", "colorlight-i5", "colorlight-i9",
    "tang-nano-20k",
)  # fmt: skip


def find(name: str) -> Board:
    """Return the board called `name`.

    Raises
    ------
    HwqError
        Where there is none; the message names the nearest one, or all.
    """
    if not name:
        raise HwqError(f"Name a board with --board: {', '.join(BOARDS)}")
    if name not in BOARDS:
        near = difflib.get_close_matches(name, BOARDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"boards are {', '.join(BOARDS)}"
        raise HwqError(f"No board {name!r}; {hint}")
    board: Board = importlib.import_module(f"boards.{name.replace('-', '_')}").BOARD
    return board
