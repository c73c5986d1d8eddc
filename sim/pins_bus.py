"""The host bus of the Verilated accelerator behind its serial port, over simulated pins."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from pathlib import Path

import numpy as np

from boards.link.client import Link
from hwq.config import ArrayConfig
from sim.build import LIBRARY, build
from sim.elaborate import convert

DIVISOR = 16
"""Clock cycles a bit, unless the target says otherwise: 3 Mbaud at 48 MHz."""

CLOCK_HZ = 48_000_000
"""Clock of an accelerator that is on no board."""

PRODUCT = dataclasses.replace(LIBRARY, harness=Path(__file__).with_name("pins.cpp"), wrapper=None)

_CALL_CYCLES = 2_000_000
_BUFFER_BYTES = 4096


class PinsTransport:
    """A transport to simulated pins, whose time passes only inside `read`.

    Parameters
    ----------
    library : Path
        A `rtl.link.serial_core.SerialCore`, built as `PRODUCT`.
    cycles_per_bit : float
        Of the host's UART; the device's may differ by some percent.
    clock_hz : float
        Clock cycles in a second of the link's time-outs.
    """

    def __init__(self, library: Path, cycles_per_bit: float, clock_hz: float = CLOCK_HZ) -> None:
        self.byte_s, self._clock_hz = 10 * cycles_per_bit / clock_hz, clock_hz
        self._library = ctypes.CDLL(str(library))
        functions = {
            "hwq_pins_create": (ctypes.c_void_p, [ctypes.c_double]),
            "hwq_pins_destroy": (None, [ctypes.c_void_p]),
            "hwq_pins_send": (None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64]),
            "hwq_pins_receive": (
                ctypes.c_int64,
                [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64],
            ),
            "hwq_pins_cycles": (ctypes.c_uint64, [ctypes.c_void_p]),
        }
        for name, (result, arguments) in functions.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._handle = self._library.hwq_pins_create(cycles_per_bit)

    def write(self, data: bytes) -> None:
        """Send `data`."""
        self._library.hwq_pins_send(self._handle, data, len(data))

    def read(self, timeout_s: float) -> bytes:
        """Run until bytes have come or `timeout_s` has passed."""
        buffer = np.empty(_BUFFER_BYTES, np.uint8)
        left = math.ceil(timeout_s * self._clock_hz)
        while left > 0:
            count = self._library.hwq_pins_receive(
                self._handle, buffer.ctypes.data, buffer.size, min(left, _CALL_CYCLES)
            )
            if count:
                return buffer[:count].tobytes()
            left -= _CALL_CYCLES
        return b""

    def clock(self) -> float:
        """Return the simulated time [s]."""
        return self._library.hwq_pins_cycles(self._handle) / self._clock_hz

    def close(self) -> None:
        """Free the model; using the transport afterwards is an error."""
        if self._handle:
            self._library.hwq_pins_destroy(self._handle)
            self._handle = None


def open_transport(config: ArrayConfig, divisor: int = DIVISOR, mismatch: float = 0.0) -> PinsTransport:
    """Return the pins of a fresh accelerator of `config`, the host's bits being longer by the share `mismatch`."""
    from rtl.link.serial_core import SerialCore

    return PinsTransport(build(convert(SerialCore(config, divisor)), "top", PRODUCT), divisor * (1 + mismatch))


def open_bus(config: ArrayConfig, board: str = "") -> Link:
    """Return the bus of a fresh accelerator of `config` over its simulated pins, or over those of a whole board."""
    if board:
        from sim.board_bus import open_board

        transport = open_board(board, config)
    else:
        transport = open_transport(config)
    return Link(transport, clock=transport.clock)
