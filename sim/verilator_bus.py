"""The host bus of the Verilated accelerator."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwq.config import ArrayConfig
from hwq.errors import DeviceError
from sim.build import LIBRARY, Product, build, verilog

WAIT_CYCLES = 1_000_000
"""Most clock cycles in one native call, which holds back Ctrl-C."""

_HANDLE, _WORDS, _COUNT = ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.c_int64
_FUNCTIONS = {
    "hwq_create": (_HANDLE, []),
    "hwq_destroy": (None, [_HANDLE]),
    "hwq_reset": (None, [_HANDLE]),
    "hwq_write": (_COUNT, [_HANDLE, ctypes.c_uint32, _WORDS, _COUNT]),
    "hwq_read": (_COUNT, [_HANDLE, ctypes.c_uint32, _WORDS, _COUNT]),
    "hwq_wait": (_COUNT, [_HANDLE, _COUNT]),
    "hwq_cycles": (ctypes.c_uint64, [_HANDLE]),
}
"""Results and arguments of what harness.cpp exports."""

_COVERAGE = (None, [_HANDLE, ctypes.c_char_p])
"""Those of hwq_coverage, which only a build with `sim.coverage` has."""


class VerilatorBus:
    """`hwq.driver.Bus` on a simulated accelerator, in native code between calls.

    Parameters
    ----------
    library : Path
        What `sim.build.build` returned.
    """

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._handle = self._library.hwq_create()

    def _transfer(self, function: str, address: int, words: NDArray[np.uint32]) -> None:
        pointer = words.ctypes.data_as(_WORDS)
        done = getattr(self._library, function)(self._handle, address, pointer, words.size)
        if done != words.size:
            raise DeviceError(f"The simulated bus never acknowledged address 0x{address + 4 * done:x}")

    def write(self, address: int, words: NDArray[np.uint32]) -> None:
        """Write `words` to consecutive word addresses from byte address `address`."""
        self._transfer("hwq_write", address, np.ascontiguousarray(words, np.uint32))

    def read(self, address: int, count: int) -> NDArray[np.uint32]:
        """Read `count` words from consecutive word addresses from byte address `address`."""
        words = np.empty(count, np.uint32)
        self._transfer("hwq_read", address, words)
        return words

    def wait(self, max_cycles: int) -> bool:
        """Run until irq is high; False when it isn't after `max_cycles`. A signal is seen within seconds."""
        left = max_cycles
        while left > WAIT_CYCLES:
            if self._library.hwq_wait(self._handle, WAIT_CYCLES) >= 0:
                return True
            left -= WAIT_CYCLES
        return self._library.hwq_wait(self._handle, left) >= 0

    def reset(self) -> None:
        """Pulse the reset input; memories keep their contents."""
        self._library.hwq_reset(self._handle)

    @property
    def cycles(self) -> int:
        """Clock cycles simulated since reset, bus traffic included."""
        return self._library.hwq_cycles(self._handle)

    def write_coverage(self, path: Path) -> None:
        """Write how often each point was reached since the bus was opened, where it was built with `sim.coverage`."""
        function = self._library.hwq_coverage
        function.restype, function.argtypes = _COVERAGE
        function(self._handle, bytes(path))

    def close(self) -> None:
        """Free the model; using the bus afterwards is an error."""
        if self._handle:
            self._library.hwq_destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


def open_bus(config: ArrayConfig) -> VerilatorBus:
    """Return the bus of a fresh accelerator of `config`; builds the simulator when it isn't in the cache.

    Raises
    ------
    MissingToolError
        When Amaranth, Verilator or a C++ compiler isn't installed.
    DeviceError
        When the simulator can't be built.
    """
    return open_library(verilog(config))


def open_library(text: str, product: Product = LIBRARY) -> VerilatorBus:
    """Return the bus of a fresh accelerator in Verilog, top module ``top``; raises as `open_bus`."""
    try:
        return VerilatorBus(build(text, product=product))
    except subprocess.CalledProcessError as error:
        said = [line for line in (error.stderr or "").splitlines() if "error" in line.lower()]
        raise DeviceError(f"Building the simulator failed: {said[0] if said else error}") from error
