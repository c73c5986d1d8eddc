"""The host bus of a board on a serial port."""

from __future__ import annotations

import serial

from boards.link.client import Link
from hwq.config import ArrayConfig
from hwq.errors import HwqError, LinkLostError

BAUD = 1_000_000
"""Bits a second unless the port's name says otherwise, as in ``/dev/ttyUSB1@3000000``."""


class SerialTransport:
    """A serial port, 8N1, so that a byte is ten bits.

    Parameters
    ----------
    port : str
        Name of the port as pyserial takes it, a URL as well.
    baud : int

    Raises
    ------
    LinkLostError
        When the port can't be opened, and from `read` and `write` once it is gone.
    """

    def __init__(self, port: str, baud: int) -> None:
        self._name, self.byte_s = port, 10 / baud
        try:
            self._port = serial.serial_for_url(port, baudrate=baud)
            self._port.reset_input_buffer()
        except (serial.SerialException, ValueError, OSError) as error:
            raise LinkLostError(f"Port {port!r} can't be opened: {error}") from error

    def write(self, data: bytes) -> None:
        """Send `data`."""
        try:
            self._port.write(data)
        except (serial.SerialException, OSError) as error:
            raise LinkLostError(f"Port {self._name!r} is gone: {error}") from error

    def read(self, timeout_s: float) -> bytes:
        """Return the bytes that have come, waiting for the first one."""
        try:
            self._port.timeout = timeout_s
            return self._port.read(max(1, self._port.in_waiting))
        except (serial.SerialException, OSError) as error:
            raise LinkLostError(f"Port {self._name!r} is gone: {error}") from error

    def close(self) -> None:
        """Close the port."""
        self._port.close()


def open_bus(config: ArrayConfig, port: str) -> Link:
    """Return the bus of the board on `port`, ``NAME`` or ``NAME@BAUD``.

    Raises
    ------
    HwqError
        When the speed is no number.
    LinkError
        As `SerialTransport` and `boards.link.client.Link` raise it.
    """
    name, _, baud = port.partition("@")
    if baud and not baud.isdecimal():
        raise HwqError(f"The speed of port {port!r} must be a number of bits a second, as in {name}@{BAUD}")
    return Link(SerialTransport(name, int(baud or BAUD)))
