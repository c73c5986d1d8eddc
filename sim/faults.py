"""The host bus of a Verilated accelerator whose memories can be changed from outside, as radiation does."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwq.config import ArrayConfig
from sim.build import LIBRARY, build, verilog
from sim.verilator_bus import VerilatorBus

_PRODUCT = replace(LIBRARY, harness=Path(__file__).with_name("faults.cpp"))
_MODULE = re.compile(r"^(?=module )", re.MULTILINE)
_MEMORY = re.compile(r"^( *reg \[\d+:\d+\] \S+ +\[\d+:\d+\])(;)$", re.MULTILINE)
_REGISTER = re.compile(r"^( *reg \[\d+:\d+\] \S+ +)(= \S+;)$", re.MULTILINE)
_TOP = "top.hwq_harness.top."


@dataclass(frozen=True)
class Storage:
    """A memory or register of the gateware, as the simulator holds it.

    Members
    -------
    name : str
        Of its module, and its own.
    bits : int
        Width of a row.
    rows : uint8 (rows, bytes)
        Little-endian, not a copy; beyond `bits` a row is 0. A register is one row.
    """

    name: str
    bits: int
    rows: NDArray[np.uint8]

    def flip(self, row: int, bit: int) -> None:
        """Invert bit `bit` of row `row`."""
        self.rows[row, bit // 8] ^= 1 << bit % 8


class FaultyBus(VerilatorBus):
    """`sim.verilator_bus.VerilatorBus` that shows the gateware's memories, and some of its registers.

    Members
    -------
    storage : dict of str to Storage
        By name: those of the accelerator itself have no module before theirs.
    """

    def __init__(self, library: Path) -> None:
        super().__init__(library)
        self._library.hwq_storage.restype = ctypes.c_char_p
        self.storage = {}
        for line in self._library.hwq_storage().decode().splitlines():
            name, *numbers = line.rsplit(" ", 4)
            address, rows, size, bits = map(int, numbers)
            name = name.strip().removeprefix(_TOP)
            array = (ctypes.c_uint8 * (rows * size)).from_address(address)
            self.storage[name] = Storage(name, bits, np.ctypeslib.as_array(array).reshape(rows, size))
        self._fault: tuple[int, Storage, int, int] | None = None

    def inject(self, name: str, row: int, bit: int, cycle: int = 0) -> None:
        """Invert a bit `cycle` cycles after the beginning of the next `wait`, however early that ends."""
        self._fault = cycle, self.storage[name], row, bit

    def wait(self, max_cycles: int) -> bool:
        """Run until irq is high, as `sim.verilator_bus.VerilatorBus.wait`."""
        if self._fault is None:
            return super().wait(max_cycles)
        (cycle, storage, row, bit), self._fault = self._fault, None
        stopped = super().wait(cycle)
        storage.flip(row, bit)
        return stopped or super().wait(max_cycles - cycle)


def open_library(text: str) -> FaultyBus:
    """Return the bus of a fresh accelerator in Verilog, top module ``top``, of which it shows what is public."""
    return FaultyBus(build(text, product=_PRODUCT))


def open_bus(config: ArrayConfig, registers: str = "") -> FaultyBus:
    """Return the bus of a fresh accelerator of `config`; raises as `sim.verilator_bus.open_bus`.

    `registers` is a regular expression; of modules whose names begin so, registers are shown as well.
    """
    public = r"\1 /*verilator public_flat_rw*/\2"
    parts = [_MEMORY.sub(public, part) for part in _MODULE.split(verilog(config))]
    if registers:
        chosen = re.compile(rf"module \\?{registers}")
        parts = [_REGISTER.sub(public, part) if chosen.match(part) else part for part in parts]
    return open_library("".join(parts))
