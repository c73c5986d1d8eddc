"""Link client: `hwq.driver.Bus` over a line that may lose, damage, double or reorder bytes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from cobs import cobs
from numpy.typing import NDArray

from hwq import frames, isa
from hwq.errors import LinkError, LinkTimeoutError
from hwq.frames import REPLY, Frame, Kind

READ_WINDOW = 2
"""READs on their way at once: their replies fill the line, so more would only wait in the device."""

_MAX_STUFFED = frames.MAX_PAYLOAD + frames.MAX_PAYLOAD // 254 + 1


class Transport(Protocol):
    """A line that carries bytes, not necessarily all of them, nor unchanged.

    Members
    -------
    byte_s : float
        Time a byte takes on the line [s].
    """

    byte_s: float

    def write(self, data: bytes) -> None:
        """Send `data`; LinkLostError where the line is gone."""

    def read(self, timeout_s: float) -> bytes:
        """Return bytes that have come, at the latest after `timeout_s`; none then. LinkLostError as `write`."""

    def close(self) -> None:
        """Release the line."""


class Link:
    """A session with the device at the other end of a transport.

    Every word that `read` returns and `write` delivers has passed a CRC-32; a request is sent again until it is
    answered, and the device never does it twice.

    Parameters
    ----------
    transport : Transport
        Closed with the link.
    timeout_s : float
        Longest wait for an answer before a request is sent again [s], what both spend on the line not counted.
    retries : int
        Times a request is sent again before the link is given up.
    session : int
        Number of the session, 1 to 2**32 - 1; drawn at random where it isn't given.
    clock : callable
        Seconds, as the transport counts them.

    Raises
    ------
    LinkTimeoutError
        When no device answers.
    LinkError
        When one answers that speaks another version.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        timeout_s: float = 0.25,
        retries: int = 12,
        session: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._timeout_s, self._retries, self._clock = timeout_s, retries, clock
        self._session = session or 1 + secrets.randbelow(2**32 - 1)
        self._sequence = 0
        self._partial = b""
        self._sent_s = 0.0
        self.resent = 0
        """Frames sent again so far."""
        version = self._open()
        if version != frames.VERSION:
            self.close()
            raise LinkError(
                f"The device speaks version {version} of the link, this host version {frames.VERSION}; rebuild one"
            )

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()

    def write(self, address: int, words: NDArray[np.uint32]) -> None:
        """Write `words` to consecutive word addresses from byte address `address`."""
        words = np.ascontiguousarray(words, "<u4").reshape(-1)
        requests = []
        for first in range(0, words.size, frames.MAX_WORDS):
            part = words[first : first + frames.MAX_WORDS]
            requests.append(self._request(Kind.WRITE, address + 4 * first, part.size, part.tobytes()))
        self._exchange(requests, frames.WINDOW)

    def read(self, address: int, count: int) -> NDArray[np.uint32]:
        """Return `count` words read from consecutive word addresses from byte address `address`."""
        requests = [
            self._request(Kind.READ, address + 4 * first, min(frames.MAX_WORDS, count - first))
            for first in range(0, count, frames.MAX_WORDS)
        ]
        data = b"".join(reply.data for reply in self._exchange(requests, READ_WINDOW))
        return np.frombuffer(data, "<u4").astype(np.uint32)

    def wait(self, max_cycles: int) -> bool:
        """Ask until the accelerator has stopped; False when it runs for more than `max_cycles`."""
        status, cycles = (isa.bus_address(isa.Region.CSR, 4 * isa.REGISTER_INDEX[n]) for n in ("status", "cycles"))
        while self.read(status, 1)[0] & isa.STATUS_BUSY:
            if self.read(cycles, 1)[0] > max_cycles:
                return False
        return True

    def _request(self, kind: Kind, address: int, words: int, data: bytes = b"") -> Frame:
        frame = Frame(kind, self._sequence, address, words, data)
        self._sequence = (self._sequence + 1) % 256
        return frame

    def _open(self) -> int:
        hello = Frame(Kind.HELLO, 0, self._session)
        for _ in range(self._retries + 1):
            self._send(hello)
            deadline = self._deadline()
            while (left := deadline - self._clock()) > 0:
                for reply in self._receive(left):
                    if reply.kind == REPLY | Kind.HELLO:
                        return reply.address
        self.close()
        raise LinkTimeoutError("No device answers on the link; check the port, its speed and that the board is loaded")

    def _exchange(self, requests: Sequence[Frame], window: int) -> list[Frame]:
        """Send `requests`, at most `window` ahead of the answers, and return the replies to READs, in order."""
        replies: list[Frame] = []
        done = sent = failures = 0
        went_back = False
        deadline = 0.0
        while done < len(requests):
            while sent < min(done + window, len(requests)):
                self._send(requests[sent])
                sent, deadline = sent + 1, self._deadline()
            for reply in self._receive(max(0.0, deadline - self._clock())):
                matched = self._match(reply, requests, done, sent)
                if matched is None:
                    # A request was lost, and so is all behind it. Each of those is refused: go back once.
                    if reply.kind == REPLY | Kind.REFUSED and not went_back:
                        deadline = self._clock()
                elif matched > done and reply.kind == REPLY | Kind.READ:
                    deadline = self._clock()  # the reply before was lost
                else:
                    if reply.kind == REPLY | Kind.READ:
                        replies.append(reply)
                    done, failures, went_back = matched + 1, 0, False
                    deadline = self._deadline()
            if done < len(requests) and self._clock() >= deadline:
                failures += 1
                if failures > self._retries:
                    raise LinkTimeoutError(
                        f"The device stopped answering: address 0x{requests[done].address:07x} was asked for "
                        f"{failures} times"
                    )
                self.resent += sent - done
                sent, went_back = done, True
        return replies

    def _match(self, reply: Frame, requests: Sequence[Frame], done: int, sent: int) -> int | None:
        """Return which of the requests on their way `reply` answers."""
        for index in range(done, sent):
            request = requests[index]
            asked = (request.kind | REPLY, request.sequence, request.address, request.words)
            if asked == (reply.kind, reply.sequence, reply.address, reply.words):
                return index
        return None

    def _send(self, frame: Frame) -> None:
        data = b"\0" + cobs.encode(frames.pack(frame, self._session)) + b"\0"
        self._sent_s = max(self._sent_s, self._clock()) + len(data) * self._transport.byte_s
        self._transport.write(data)

    def _deadline(self) -> float:
        """Return until when an answer to what has been sent may take."""
        return max(self._sent_s, self._clock()) + _MAX_STUFFED * self._transport.byte_s + self._timeout_s

    def _receive(self, timeout_s: float) -> list[Frame]:
        """Return the good frames among the next bytes."""
        *whole, self._partial = (self._partial + self._transport.read(timeout_s)).split(b"\0")
        self._partial = self._partial[: _MAX_STUFFED + 1]
        good = []
        for stuffed in whole:
            if not 0 < len(stuffed) <= _MAX_STUFFED:
                continue
            try:
                frame = frames.unpack(cobs.decode(stuffed), self._session)
            except cobs.DecodeError:
                continue
            if frame is not None and frame.kind & REPLY:
                good.append(frame)
        return good
