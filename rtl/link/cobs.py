"""Consistent overhead byte stuffing (Cheshire and Baker, 1999): frames without a zero byte, between zero bytes."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.unordered import UNORDERED

FramedByte = data.StructLayout({"byte": 8, "last": 1})
"""A byte of a payload, and whether it is the payload's last."""

DecodedByte = data.StructLayout({"byte": 8, "end": 1, "good": 1})
"""A byte of a payload; or, with `end`, its end and whether the stuffing was whole (`byte` then means nothing)."""


class CobsDecoder(wiring.Component):
    """Payloads from stuffed bytes.

    Any zero byte ends a frame, so decoding starts afresh at the next frame whatever came before. Empty frames give
    an end that isn't good.

    Latency: none, combinational. Throughput: one byte a cycle. Backpressure: passed on.

    Members
    -------
    i : stuffed bytes
    o : payload bytes and ends
    """

    i: In(stream.Signature(8))
    o: Out(stream.Signature(DecodedByte))

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        left, implied, empty = Signal(8), Signal(), Signal(init=1)  # bytes to the next code; it stands for a zero
        byte, is_code = self.i.payload, Signal(init=1)  # the latter: none are left
        m.d.comb += [
            self.o.payload.end.eq(byte == 0),
            self.o.payload.good.eq(is_code & ~empty),
            self.o.payload.byte.eq(Mux(is_code, 0, byte)),
            self.o.valid.eq(self.i.valid & ((byte == 0) | ~is_code | implied)),
            self.i.ready.eq(self.o.ready | ~self.o.valid),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += empty.eq(0)
            with m.If(byte == 0):
                m.d.sync += [is_code.eq(1), implied.eq(0), empty.eq(1)]
            with m.Elif(is_code):
                m.d.sync += [left.eq(byte - 1), is_code.eq(byte == 1), implied.eq(byte != 0xFF)]
            with m.Else():
                m.d.sync += [left.eq(left - 1), is_code.eq(left == 1)]
        return m


class CobsEncoder(wiring.Component):
    """Stuffed frames, a zero byte before and after, from payloads.

    A code tells how far the next zero is, so a payload is written to a buffer, each code behind its bytes, and sent
    from there.

    Latency: a payload is taken whole before its first byte is sent. Throughput: in, a byte in two cycles, and one
    more for every 254 bytes without zero and at a payload's end; out, a byte a cycle. Backpressure: `i.ready` is low
    while a frame is sent.

    Parameters
    ----------
    size : int
        Bytes of the longest payload.

    Members
    -------
    i : payload bytes
    o : stuffed bytes
    """

    def __init__(self, size: int):
        self._depth = size + size // 254 + 1
        super().__init__({"i": In(stream.Signature(FramedByte)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        m.submodules.buffer = buffer = Memory(shape=8, depth=self._depth, init=[], attrs=UNORDERED)
        write, read = buffer.write_port(), buffer.read_port()
        end, code_at = Signal(range(1, self._depth + 1), init=1), Signal(range(self._depth))
        code, last, byte = Signal(8, init=1), Signal(), Signal(8)
        m.d.comb += write.addr.eq(code_at)
        reached = Signal(range(self._depth + 2))  # bytes read
        m.d.comb += [read.addr.eq(reached), read.en.eq(0)]

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [byte.eq(self.i.payload.byte), last.eq(self.i.payload.last)]
                    m.next = "STUFF"
            with m.State("STUFF"):
                m.d.comb += write.en.eq(1)
                m.d.sync += end.eq(end + 1)
                with m.If(byte == 0):
                    m.d.comb += write.data.eq(code)
                    m.d.sync += [code.eq(1), code_at.eq(end)]
                with m.Else():
                    m.d.comb += [write.addr.eq(end), write.data.eq(byte)]
                    m.d.sync += code.eq(code + 1)
                m.next = "TAKE"
                with m.If(last | ((byte != 0) & (code == 0xFE))):
                    m.next = "CODE"
            with m.State("CODE"):
                m.d.comb += [write.en.eq(1), write.data.eq(code)]
                with m.If(last):
                    m.d.sync += reached.eq(0)
                    m.next = "OPEN"
                with m.Else():
                    m.d.sync += [code.eq(1), code_at.eq(end), end.eq(end + 1)]
                    m.next = "TAKE"
            with m.State("OPEN"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.comb += read.en.eq(1)
                    m.d.sync += reached.eq(1)
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(read.data)]
                with m.If(self.o.ready):
                    m.d.comb += read.en.eq(1)
                    m.d.sync += reached.eq(reached + 1)
                    with m.If(reached == end):
                        m.next = "CLOSE"
            with m.State("CLOSE"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [end.eq(1), code_at.eq(0), code.eq(1)]
                    m.next = "TAKE"
        return m
