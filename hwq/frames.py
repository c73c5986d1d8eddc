"""Frames of the host link: what goes over a wire between `hwq.driver.Bus` and an accelerator.

A frame is a payload, COBS-encoded (Cheshire and Baker, 1999) so that it holds no zero byte, between zero bytes::

    kind | sequence | words | 0 | address, 4 bytes | words * 4 bytes | CRC-32, 4 bytes

Numbers are little-endian. The CRC is that of IEEE 802.3 over the payload, begun from the session number
(``zlib.crc32(payload, session)``); in a HELLO and its reply the session number counts as 0. So a frame of another
session is a broken frame, and a broken frame is never acted upon nor answered.

The host opens a session with HELLO, `address` being its number, drawn at random. Requests are then numbered from 0,
modulo 256, and the device executes one only if its number is the next: an older one of the last `WINDOW` is answered
again (a WRITE without being done again), any other is REFUSED with the number the device expects. The device answers
in order. As a READ may be done twice, the host doesn't send a WRITE behind a READ that has no answer yet.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass

MAX_WORDS = 64
"""Most data words in a frame."""

WINDOW = 8
"""Requests that may be on their way at once."""

VERSION = 2
"""The address of a HELLO's reply."""

REPLY = 0x80
"""Set in the kind of every frame from the device."""

HEADER = struct.Struct("<BBBxI")
"""Kind, sequence, words, address."""

CRC_BYTES = 4

MAX_PAYLOAD = HEADER.size + 4 * MAX_WORDS + CRC_BYTES
"""Bytes of the longest payload."""


class Kind(enum.IntEnum):
    """What a frame asks for, or with `REPLY` answers."""

    HELLO = 1
    """Open the session `address`; answered with `VERSION`."""
    READ = 2
    """`words` words from byte `address`: the request has no data, the reply has."""
    WRITE = 3
    """Write the data from byte `address`: the reply has none."""
    REFUSED = 4
    """Reply only: not the next request; `sequence` is the number the device expects."""


@dataclass(frozen=True)
class Frame:
    """A payload taken apart.

    Members
    -------
    kind : int
        A `Kind`, with `REPLY` from the device.
    sequence : int
        0 to 255.
    address : int
        Byte address, or as `Kind` says.
    words : int
        Data words asked for or carried, at most `MAX_WORDS`.
    data : bytes
        ``4 * words`` bytes where the kind carries data, else none.
    """

    kind: int
    sequence: int
    address: int
    words: int = 0
    data: bytes = b""


def crc(payload: bytes, session: int) -> int:
    """Return the CRC of a payload without its CRC."""
    opens = payload[0] & ~REPLY == Kind.HELLO
    return zlib.crc32(payload, 0 if opens else session)


def pack(frame: Frame, session: int) -> bytes:
    """Return the payload of `frame`, CRC included."""
    body = HEADER.pack(frame.kind, frame.sequence, frame.words, frame.address) + frame.data
    return body + crc(body, session).to_bytes(CRC_BYTES, "little")


def unpack(payload: bytes, session: int) -> Frame | None:
    """Return the frame in `payload`, None where it is broken: too short, its CRC or its length wrong."""
    if not HEADER.size + CRC_BYTES <= len(payload) <= MAX_PAYLOAD:
        return None
    body, check = payload[:-CRC_BYTES], payload[-CRC_BYTES:]
    if crc(body, session) != int.from_bytes(check, "little"):
        return None
    kind, sequence, words, address = HEADER.unpack_from(body)
    data = body[HEADER.size :]
    carries = kind in (Kind.WRITE, Kind.READ | REPLY)
    if words > MAX_WORDS or len(data) != (4 * words if carries else 0):
        return None
    return Frame(kind, sequence, address, words, data)
