"""Lines with faults between the link's client and a device, with a clock of their own: no test waits in real time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator

from hwq.errors import LinkLostError

Fault = Callable[[bytes, random.Random], list[bytes]]
"""From one frame on the wire to what arrives in its place."""


def bit_flips(frame: bytes, draw: random.Random) -> list[bytes]:
    out = bytearray(frame)
    for _ in range(draw.randint(1, 3)):
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return [bytes(out)]


def bursts(frame: bytes, draw: random.Random) -> list[bytes]:
    first = draw.randrange(len(frame))
    length = draw.randint(2, 40)
    return [frame[:first] + draw.randbytes(len(frame[first : first + length])) + frame[first + length :]]


def drops(frame: bytes, draw: random.Random) -> list[bytes]:
    first = draw.randrange(len(frame))
    return [frame[:first] + frame[first + draw.randint(1, 4) :]]


def insertions(frame: bytes, draw: random.Random) -> list[bytes]:
    first = draw.randrange(len(frame) + 1)
    return [frame[:first] + draw.randbytes(draw.randint(1, 4)) + frame[first:]]


def truncation(frame: bytes, draw: random.Random) -> list[bytes]:
    return [frame[: draw.randrange(len(frame))]]


def duplicates(frame: bytes, draw: random.Random) -> list[bytes]:
    return [frame] * draw.randint(2, 3)


def losses(frame: bytes, draw: random.Random) -> list[bytes]:
    return []


FAULTS: dict[str, Fault] = {
    fault.__name__: fault for fault in (bit_flips, bursts, drops, insertions, truncation, duplicates, losses)
}


class Line:
    """One direction: frames in, bytes out, some of them damaged, late or out of order."""

    def __init__(self, draw: random.Random, fault: str | None = None, rate: float = 0.0, bit_errors: float = 0.0):
        self._draw, self._fault, self._rate, self._bit_errors = draw, fault, rate, bit_errors
        self._held: list[bytes] = []
        self._bytes: deque[int] = deque()
        self.frames = 0

    def send(self, frame: bytes) -> None:
        self.frames += 1
        draw, arriving = self._draw, [frame]
        if self._fault is not None and draw.random() < self._rate:
            if self._fault in ("reordering", "stalls"):
                self._held.append(frame)
                return
            arriving = FAULTS[self._fault](frame, draw)
        if self._fault == "reordering":
            arriving, self._held = arriving + self._held, []
        for part in arriving:
            self._bytes.extend(self._noisy(part))

    def _noisy(self, data: bytes) -> bytes:
        if not self._bit_errors:
            return data
        out = bytearray(data)
        position = -1
        while (position := position + 1 + int(self._draw.expovariate(self._bit_errors))) < 8 * len(out):
            out[position // 8] ^= 1 << position % 8
        return bytes(out)

    def idle(self) -> None:
        """Time passes: what was held back arrives."""
        for part in self._held:
            self._bytes.extend(self._noisy(part))
        self._held = []

    def take(self) -> bytes:
        out = bytes(self._bytes)
        self._bytes.clear()
        return out


class LineTransport:
    """A transport whose device is a function from received to sent frames.

    Parameters
    ----------
    device : callable
        Takes bytes and yields frames as they go on the wire; called with none when time passes.
    there, back : Line
    unplugged_after : int
        Frames sent until the line is gone; None: never.
    """

    byte_s = 0.0

    def __init__(
        self,
        device: Callable[[bytes], Iterator[bytes]],
        there: Line,
        back: Line,
        unplugged_after: int | None = None,
    ) -> None:
        self._device, self.there, self.back = device, there, back
        self._unplugged_after = unplugged_after
        self.now = 0.0
        self.closed = False

    def clock(self) -> float:
        return self.now

    def _check(self) -> None:
        if self._unplugged_after is not None and self.there.frames >= self._unplugged_after:
            raise LinkLostError("Port 'line' is gone: unplugged")

    def write(self, data: bytes) -> None:
        self._check()
        self.there.send(data)

    def read(self, timeout_s: float) -> bytes:
        self._check()
        self._exchange()
        data = self.back.take()
        if not data:
            self.now += timeout_s
            self.there.idle()
            self.back.idle()
            self._exchange()
            data = self.back.take()
        return data

    def _exchange(self) -> None:
        for frame in self._device(self.there.take()):
            self.back.send(frame)

    def close(self) -> None:
        self.closed = True
