"""``hwq flash``: a bitstream onto its board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def flash(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What hwq build wrote.", show_default=False)],
    board: Annotated[str, typer.Option("--board", "-b", metavar="BOARD", help="See boards/README.md.")],
) -> None:
    """Load a built bitstream onto its board with openFPGALoader, or say what to run where that isn't installed."""
    import shlex
    import shutil
    import subprocess

    from hwq.commands.build import boards_module
    from hwq.commands.console import console
    from hwq.errors import HwqError, MissingToolError

    command = boards_module("flash").command(board, folder)
    if shutil.which(command[0]) is None:
        raise MissingToolError(f"{command[0]} isn't installed; install it and run: {shlex.join(command)}")
    console().print(shlex.join(command), markup=False)
    status = subprocess.run(command, check=False).returncode
    if status:
        raise HwqError(f"{command[0]} failed with exit status {status}; what it printed says why")
