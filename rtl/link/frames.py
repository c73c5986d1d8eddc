"""Frames of the host link in gateware: taken apart and checked, and put together; `hwq.frames` has the format."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc import catalog
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import frames
from rtl.link.cobs import CobsDecoder, CobsEncoder, FramedByte
from rtl.primitives import UNORDERED

BUFFERS = 2
"""Frames the receiver holds: one being executed, one being received."""

_BUFFER_BITS = ceil_log2(frames.MAX_PAYLOAD)


class SessionCrc(wiring.Component):
    """CRC of a payload with the session number behind its first byte, as `hwq.frames.crc` has it.

    Latency: 1 cycle from the last byte to `o`. Throughput: one byte a cycle, with four cycles of `ready` low behind
    the first byte. Backpressure: `i.ready`.

    Members
    -------
    i : payload bytes; `last` starts the next CRC with the byte after it
    i_session : the session number
    o : CRC of the bytes so far
    o_good : the bytes so far end in the CRC of those before
    """

    i: In(stream.Signature(FramedByte))
    i_session: In(32)
    o: Out(32)
    o_good: Out(1)

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        m.submodules.crc = crc = catalog.CRC32_ISO_HDLC(data_width=8).create()
        m.d.comb += [self.o.eq(crc.crc), self.o_good.eq(crc.match_detected)]
        first, session, left = Signal(init=1), Signal(32), Signal(range(5))
        with m.If(left == 0):
            m.d.comb += [
                self.i.ready.eq(1),
                crc.valid.eq(self.i.valid),
                crc.start.eq(self.i.valid & first),
                crc.data.eq(self.i.payload.byte),
            ]
            with m.If(self.i.valid):
                m.d.sync += first.eq(self.i.payload.last)
                with m.If(first & ~self.i.payload.last):
                    opens = (self.i.payload.byte & ~frames.REPLY & 0xFF) == frames.Kind.HELLO
                    m.d.sync += [left.eq(4), session.eq(Mux(opens, 0, self.i_session))]
        with m.Else():
            m.d.comb += [crc.valid.eq(1), crc.data.eq(session[:8])]
            m.d.sync += [left.eq(left - 1), session.eq(session >> 8)]
        return m


class FrameReceiver(wiring.Component):
    """Whole frames, checked, in a buffer.

    A frame that is broken, or comes while every buffer is full, is dropped without a trace.

    Latency: 2 cycles from the frame's last byte to `o_full`. Throughput: a byte a cycle. Backpressure: four cycles
    behind a frame's first byte.

    Members
    -------
    i : stuffed bytes
    i_session : the session number
    o_full : a frame waits, and is the one read from
    i_free : let it go
    i_flush : drop every frame, that being received as well
    i_address, o_byte : byte `i_address` of its payload, one cycle later
    """

    i: In(stream.Signature(8))
    i_session: In(32)
    o_full: Out(1)
    i_free: In(1)
    i_flush: In(1)
    i_address: In(_BUFFER_BITS)
    o_byte: Out(8)

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        m.submodules.decoder = decoder = CobsDecoder()
        m.submodules.crc = crc = SessionCrc()
        m.submodules.buffer = buffer = Memory(shape=8, depth=BUFFERS << _BUFFER_BITS, init=[], attrs=UNORDERED)
        write, read = buffer.write_port(), buffer.read_port()
        wiring.connect(m, wiring.flipped(self.i), decoder.i)
        item = decoder.o.payload

        taking, giving = Signal(range(BUFFERS)), Signal(range(BUFFERS))
        full = Signal(BUFFERS)
        count, kind, words = Signal(range(frames.MAX_PAYLOAD + 2)), Signal(8), Signal(8)
        free, whole, stale, expected = Signal(), Signal(), Signal(), Signal(range(4 * 256 + 16))
        carries = kind == frames.Kind.WRITE
        m.d.comb += [
            free.eq(~full.bit_select(taking, 1)),
            crc.i_session.eq(self.i_session),
            crc.i.payload.byte.eq(item.byte),
            crc.i.payload.last.eq(item.end),
            crc.i.valid.eq(decoder.o.valid),
            decoder.o.ready.eq(crc.i.ready),
            expected.eq(Mux(carries, words << 2, 0) + frames.HEADER.size + frames.CRC_BYTES),
            # the CRC register still holds the payload's: the end of a frame isn't part of it
            whole.eq(item.good & crc.o_good & (count == expected) & (words <= frames.MAX_WORDS) & ~stale),
            write.addr.eq(Cat(count[:_BUFFER_BITS], taking)),
            write.data.eq(item.byte),
            read.addr.eq(Cat(self.i_address, giving)),
            self.o_byte.eq(read.data),
            self.o_full.eq(full.bit_select(giving, 1)),
        ]
        with m.If(self.i_free):
            m.d.sync += [full.bit_select(giving, 1).eq(0), giving.eq(giving + 1)]
        with m.If(decoder.o.valid & decoder.o.ready):
            with m.If(item.end):
                m.d.sync += [count.eq(0), stale.eq(0)]
                with m.If(whole & free):
                    m.d.sync += [full.bit_select(taking, 1).eq(1), taking.eq(taking + 1)]
            with m.Elif(count <= frames.MAX_PAYLOAD):
                m.d.comb += write.en.eq(free & (count < frames.MAX_PAYLOAD))
                m.d.sync += count.eq(count + 1)
                with m.If(count == 0):
                    m.d.sync += kind.eq(item.byte)
                with m.If(count == 2):
                    m.d.sync += words.eq(item.byte)
        with m.If(self.i_flush):
            m.d.sync += [full.eq(0), taking.eq(0), giving.eq(0)]
            with m.If(~(decoder.o.valid & decoder.o.ready & item.end)):
                m.d.sync += stale.eq((count != 0) | decoder.o.valid)
        return m


class FrameSender(wiring.Component):
    """Stuffed frames from payloads without their CRC.

    Latency: a payload is taken whole before its first byte is sent. Throughput: a byte a cycle. Backpressure:
    `i.ready` is low while a frame is sent and for the CRC's cycles.

    Members
    -------
    i : header and data
    i_session : the session number
    o : stuffed bytes
    """

    i: In(stream.Signature(FramedByte))
    i_session: In(32)
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        m.submodules.crc = crc = SessionCrc()
        m.submodules.encoder = encoder = CobsEncoder(frames.MAX_PAYLOAD)
        wiring.connect(m, wiring.flipped(self.o), encoder.o)
        left, check = Signal(range(frames.CRC_BYTES + 2)), Signal(32)
        m.d.comb += [crc.i_session.eq(self.i_session), crc.i.payload.eq(self.i.payload)]
        with m.If(left == 0):
            m.d.comb += [
                encoder.i.payload.byte.eq(self.i.payload.byte),
                encoder.i.valid.eq(self.i.valid & crc.i.ready),
                crc.i.valid.eq(self.i.valid & encoder.i.ready),
                self.i.ready.eq(crc.i.ready & encoder.i.ready),
            ]
            with m.If(self.i.valid & self.i.ready & self.i.payload.last):
                m.d.sync += left.eq(frames.CRC_BYTES + 1)
        with m.Elif(left == frames.CRC_BYTES + 1):
            m.d.sync += [check.eq(crc.o), left.eq(left - 1)]
        with m.Else():
            m.d.comb += [
                encoder.i.payload.byte.eq(check[:8]),
                encoder.i.payload.last.eq(left == 1),
                encoder.i.valid.eq(1),
            ]
            with m.If(encoder.i.ready):
                m.d.sync += [left.eq(left - 1), check.eq(check >> 8)]
        return m
