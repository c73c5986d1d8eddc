"""The processor ONNX Runtime ran on: its instruction sets choose the integer kernels, so reports name them."""

from __future__ import annotations

import platform
from pathlib import Path

_FLAGS = (
    "sse4_1",
    "avx",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
)
_FLAG_LINES = ("flags", "Features")
"""How Linux names the line on x86 and on ARM."""


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return the machine's architecture and those of its instruction sets that matter to integer kernels.

    Only Linux tells; elsewhere the architecture stands alone.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = next((line.partition(":")[2].split() for line in lines if line.split(":")[0].strip() in _FLAG_LINES), [])
    return [platform.machine(), *(flag for flag in _FLAGS if flag in found)]
