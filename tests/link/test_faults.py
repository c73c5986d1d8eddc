"""The link's client against a model of the device, over lines with every class of fault."""

import os
import random

import pytest

from boards.link.client import Link
from hwq.errors import LinkError, LinkLostError, LinkTimeoutError
from tests.link.device import COUNTER, DeviceModel, Words
from tests.link.lines import FAULTS, Line, LineTransport
from tests.link.traffic import exercise

FRAMES = int(os.environ.get("HWQ_LINK_FRAMES", "3000"))
"""Frames sent a class; `make campaign` sends 100,000."""

CLASSES = [*FAULTS, "reordering", "stalls"]


def faulty(name: str, seed: int, rate: float = 0.1, **options) -> tuple[Link, Words, LineTransport, random.Random]:
    draw = random.Random(f"{name} {seed}")
    memory = Words()
    there, back = (Line(draw, name, rate) for _ in range(2))
    transport = LineTransport(DeviceModel(memory), there, back, **options)
    return Link(transport, session=1 + seed, clock=transport.clock), memory, transport, draw


@pytest.mark.parametrize("name", CLASSES)
def test_no_fault_goes_unnoticed_and_all_are_recovered_from(name):
    link, memory, transport, draw = faulty(name, 0)
    checked = exercise(link, memory, draw, lambda: transport.there.frames >= FRAMES)
    assert checked > 1000
    assert (link.resent > 0) == (name != "duplicates")


def test_an_unplugged_line_ends_in_its_own_error():
    link, memory, _, draw = faulty("losses", 1, rate=0.0, unplugged_after=200)
    with pytest.raises(LinkLostError, match="unplugged"):
        exercise(link, memory, draw, lambda: False)


def test_a_silent_device_ends_in_a_timeout_that_says_what_was_asked():
    link, memory, transport, draw = faulty("losses", 2, rate=0.0)
    exercise(link, memory, draw, lambda: transport.there.frames >= 50)
    transport.there._rate = 1.0
    before = transport.there.frames
    with pytest.raises(LinkTimeoutError, match="address 0x0000040 was asked for 13 times"):
        link.read(0x40, 1)
    assert transport.there.frames - before == 13


def test_no_device_at_all():
    transport = LineTransport(lambda data: iter(()), Line(random.Random(0)), Line(random.Random(0)))
    with pytest.raises(LinkTimeoutError, match="No device answers on the link; check the port"):
        Link(transport, clock=transport.clock)
    assert transport.closed


def test_another_version_is_refused():
    device = DeviceModel(Words())
    device._reply = lambda *reply: DeviceModel._reply(device, *reply[:3], 7)
    transport = LineTransport(device, Line(random.Random(0)), Line(random.Random(0)))
    with pytest.raises(LinkError, match="The device speaks version 7 of the link, this host version 2"):
        Link(transport, clock=transport.clock)
    assert transport.closed


def test_noise_at_power_up_is_no_frame():
    draw = random.Random(3)
    for length in (1, 10, 500, 20_000):
        memory = Words()
        transport = LineTransport(DeviceModel(memory), Line(draw), Line(draw))
        transport.there.send(draw.randbytes(length))
        transport.back.send(draw.randbytes(length))
        link = Link(transport, clock=transport.clock)
        exercise(link, memory, draw, lambda end=transport.there.frames + 100, line=transport.there: line.frames >= end)


def test_one_good_frame_after_a_broken_one_gets_through():
    """Recovery takes no longer than the frame that was hit."""
    for name in CLASSES:
        link, _, transport, _ = faulty(name, 4, rate=0.0)
        line = transport.there
        for _ in range(100):
            line._rate = 1.0
            sent = line.frames
            line._send, line.send = line.send, lambda frame, line=line: (line._send(frame), setattr(line, "_rate", 0.0))
            link.write(64, [1])
            line.send = line._send
            assert line.frames - sent <= 2


def test_a_bit_error_rate_of_1e_4_is_survived():
    draw = random.Random(5)
    memory = Words()
    there, back = (Line(draw, bit_errors=1e-4) for _ in range(2))
    transport = LineTransport(DeviceModel(memory), there, back)
    link = Link(transport, clock=transport.clock)
    exercise(link, memory, draw, lambda: there.frames >= FRAMES)
    assert link.resent > FRAMES / 100


def test_a_new_session_ignores_the_old_one():
    draw = random.Random(6)
    memory = Words()
    device = DeviceModel(memory)
    old = LineTransport(device, Line(draw), Line(draw))
    Link(old, session=1, clock=old.clock).write(0, [5])
    stale = []
    again = LineTransport(device, Line(draw), Line(draw))
    keep = again.there.send
    again.there.send = lambda frame: (stale.append(frame), keep(frame))
    link = Link(again, session=2, clock=again.clock)
    link.write(0, [6])
    last = LineTransport(device, Line(draw), Line(draw))
    link = Link(last, session=3, clock=last.clock)
    for frame in stale[1:]:
        last.there.send(frame)
    link.write(4, [7])
    assert (memory.read(0), memory.read(4)) == (6, 7)
    link.write(COUNTER, [0])
    assert memory.read(COUNTER) == 1
