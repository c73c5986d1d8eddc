"""How a built bitstream gets onto its board."""

from __future__ import annotations

import json
from pathlib import Path

from boards.build import REPORT
from boards.registry import find
from hwq.errors import HwqError


def command(board: str, folder: Path) -> list[str]:
    """Return the command line that loads what `boards.build.build` wrote to `folder` onto `board`.

    Raises
    ------
    HwqError
        Where `folder` holds no bitstream, or another board's.
    """
    target = find(board)
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        built, bitstream = report["board"], report["bitstream"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HwqError(f"{folder} holds no build; make one with: hwq build --board {board} -o {folder}") from error
    if built != board:
        raise HwqError(f"{folder} was built for {built}, not for {board}; build it again with --board {board}")
    if not bitstream or not (folder / bitstream).is_file():
        raise HwqError(f"{folder} holds no bitstream: {report.get('problem') or 'the file is missing'}")
    return ["openFPGALoader", "--board", target.cable, str(folder / bitstream)]
