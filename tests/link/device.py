"""The device's end of the link from the text of `hwq.frames`, sharing no code with it, and RTL behind the same call."""

from __future__ import annotations

import binascii
from collections import deque
from collections.abc import Iterator

COUNTER = 0x10000
"""Address whose word counts how often it is written, to see a request done twice."""


class Words:
    """A memory of 32-bit words, and the counter."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}

    def read(self, address: int) -> int:
        return self.words.get(address, 0)

    def write(self, address: int, value: int) -> None:
        self.words[address] = self.read(COUNTER) + 1 if address == COUNTER else value


def unstuffed(data: bytes) -> bytes | None:
    out, at = bytearray(), 0
    while at < len(data):
        code = data[at]
        if at + code > len(data):
            return None
        out += data[at + 1 : at + code]
        at += code
        if code < 255 and at < len(data):
            out.append(0)
    return bytes(out)


def stuffed(data: bytes) -> bytes:
    out = bytearray()
    for run in (data + b"\0").split(b"\0")[:-1]:
        while len(run) >= 254:
            out += b"\xff" + run[:254]
            run = run[254:]
        out += bytes([len(run) + 1]) + run
    return bytes(out)


class DeviceModel:
    def __init__(self, memory: Words) -> None:
        self.memory = memory
        self._session, self._expected, self._partial = 0, 0, bytearray()

    def __call__(self, data: bytes) -> Iterator[bytes]:
        for byte in data:
            if byte:
                self._partial.append(byte)
                continue
            payload, self._partial = unstuffed(bytes(self._partial)), bytearray()
            reply = self._answer(payload) if payload else None
            if reply is not None:
                yield b"\0" + stuffed(reply) + b"\0"

    def _crc(self, body: bytes) -> bytes:
        return binascii.crc32(body, 0 if body[0] % 128 == 1 else self._session).to_bytes(4, "little")

    def _answer(self, payload: bytes) -> bytes | None:
        body = payload[:-4]
        if len(payload) < 12 or self._crc(body) != payload[-4:] or body[2] > 64:
            return None
        kind, sequence, words, address = body[0], body[1], body[2], int.from_bytes(body[4:8], "little")
        data = body[8:]
        if len(data) != (4 * words if kind == 3 else 0):
            return None
        if kind == 1:
            if address != self._session:
                self._session, self._expected = address, 0
            return self._reply(1, sequence, 0, 2)
        behind = (self._expected - sequence) % 256
        if kind not in (2, 3) or behind > 8:
            return self._reply(4, self._expected, 0, address)
        if behind == 0:
            self._expected = (self._expected + 1) % 256
        if kind == 2:
            values = [self.memory.read(address + 4 * n) for n in range(words)]
            return self._reply(2, sequence, words, address, b"".join(v.to_bytes(4, "little") for v in values))
        if behind == 0:
            for n in range(words):
                self.memory.write(address + 4 * n, int.from_bytes(data[4 * n : 4 * n + 4], "little"))
        return self._reply(3, sequence, words, address)

    def _reply(self, kind: int, sequence: int, words: int, address: int, data: bytes = b"") -> bytes:
        body = bytes([kind + 128, sequence, words, 0]) + address.to_bytes(4, "little") + data
        return body + self._crc(body)


class Framer:
    """Cuts the bytes of a device into frames for a line, zeros at both ends."""

    def __init__(self) -> None:
        self._bytes: deque[int] = deque()

    def __call__(self, data: bytes) -> Iterator[bytes]:
        self._bytes.extend(data)
        whole = bytes(self._bytes)
        while True:
            end = whole.find(0, 1)
            if not whole or end < 0:
                break
            yield whole[: end + 1]
            whole = whole[end + 1 :]
        self._bytes = deque(whole)
