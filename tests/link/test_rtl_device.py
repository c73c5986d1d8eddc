"""The gateware's end of the link, over the same lines as its model."""

import os
import random

import numpy as np
import pytest
from cobs import cobs

from boards.link.client import Link
from hwq import frames
from tests.link.device import Words
from tests.link.lines import FAULTS, Line, LineTransport
from tests.link.rtl_device import RtlDevice
from tests.link.traffic import exercise

pytestmark = pytest.mark.rtl

FRAMES = int(os.environ.get("HWQ_LINK_RTL_FRAMES", "60"))
"""Frames sent a class; `make campaign` sends 1,000."""


@pytest.mark.parametrize("name", [*FAULTS, "reordering", "stalls"])
def test_no_fault_goes_unnoticed_and_all_are_recovered_from(name):
    draw = random.Random(name)
    memory = Words()
    there, back = (Line(draw, name, 0.1) for _ in range(2))
    transport = LineTransport(RtlDevice(memory, draw.randrange(3)), there, back)
    link = Link(transport, session=9, clock=transport.clock)
    assert exercise(link, memory, draw, lambda: there.frames >= FRAMES, most_words=20) > 0


def test_frames_that_find_no_buffer_are_sent_again():
    draw = random.Random(0)
    memory = Words()
    transport = LineTransport(RtlDevice(memory, wait_cycles=100), Line(draw), Line(draw))
    link = Link(transport, session=9, clock=transport.clock)
    words = np.frombuffer(draw.randbytes(4 * 64 * 6), np.uint32)
    link.write(0, words)
    assert link.resent > 0
    assert [memory.read(4 * n) for n in range(words.size)] == words.tolist()


def test_runs_without_a_zero_of_every_length_come_back():
    memory = Words()
    transport = LineTransport(RtlDevice(memory), Line(random.Random(0)), Line(random.Random(0)))
    link = Link(transport, session=0x01010101, clock=transport.clock)
    for count in range(58, 65):
        words = np.full(count, 0x7F6E5D4C, np.uint32)
        for last in (0x7F6E5D4C, 0x6E5D4C, 0x4C):
            words[-1] = last
            link.write(0x01010104, words)
            assert link.read(0x01010104, count).tolist() == words.tolist()
    assert link.resent == 0


def test_good_frames_that_are_no_request_are_not_acted_upon():
    memory, session = Words(), 9
    device = RtlDevice(memory)
    transport = LineTransport(device, Line(random.Random(0)), Line(random.Random(0)))
    Link(transport, session=session, clock=transport.clock).write(0, np.array([5], np.uint32))

    def answer(*frame) -> list[bytes]:
        payload = frames.pack(frames.Frame(*frame), session)
        return [cobs.decode(reply.strip(b"\0")) for reply in device(b"\0" + cobs.encode(payload) + b"\0")]

    write, read = frames.Kind.WRITE, frames.Kind.READ
    for data in (b"", bytes(3), bytes(5), bytes(8)):
        assert answer(write, 1, 0, 1, data) == []
    assert answer(read, 1, 0, 1, bytes(4)) == []
    assert answer(read, 1, 0, 65) == []
    assert answer(write, 1, 0, 65, bytes(260)) == []
    for kind in (0, 4, 0x55):
        refused = frames.unpack(answer(kind, 1, 0)[0], session)
        assert (refused.kind, refused.sequence) == (frames.REPLY | frames.Kind.REFUSED, 1)
    for sequence in (2, 3, 0x80, 0xF8):
        refused = frames.unpack(answer(write, sequence, 0, 1, bytes(4))[0], session)
        assert (refused.kind, refused.sequence) == (frames.REPLY | frames.Kind.REFUSED, 1)
    for sequence in (0, 0xFF, 0xF9):
        assert frames.unpack(answer(write, sequence, 0, 1, bytes(4))[0], session).kind == frames.REPLY | write
    assert memory.words == {0: 5}
    assert frames.unpack(answer(write, 1, 0, 1, bytes(4))[0], session).kind == frames.REPLY | write
    assert memory.words == {0: 0}
