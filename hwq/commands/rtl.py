"""``hwq rtl``: the accelerator as Verilog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwq.commands.options import Arch


def rtl(
    arch: Arch,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.", show_default=False)],
) -> None:
    """Write the accelerator of an architecture as Verilog: DIR/top.v and DIR/manifest.json."""
    import hashlib
    import importlib

    from hwq.commands.console import console, progress, write_file, write_report
    from hwq.config import load_arch
    from hwq.errors import HwqError, MissingToolError

    config = load_arch(arch)
    with progress() as show:
        show(f"Writing the Verilog of {config.name}", 0, 0)
        try:
            text = importlib.import_module("sim.build").verilog(config)  # by name: hwq knows no gateware
        except ModuleNotFoundError as error:
            raise MissingToolError(f"hwq rtl needs {error.name}; install it with: pip install 'hwq[sim]'") from error
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HwqError(f"{output}: can't be made ({error.strerror or error})") from error
    write_file(output / "top.v", text.encode())
    digests = {"digest": config.digest(), "verilog_sha256": hashlib.sha256(text.encode()).hexdigest()}
    write_report(output / "manifest.json", {"top": "top", "files": ["top.v"], "arch": config.to_dict()} | digests)
    console().print(f"Wrote {output}: top.v ({len(text):,} bytes), manifest.json.", markup=False)
