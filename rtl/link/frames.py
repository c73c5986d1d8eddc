"""Frames of the host link in gateware: taken apart and checked, and put together; `hwq.frames` has the format."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc import catalog
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import frames
from rtl.link.cobs import CobsDecoder, CobsEncoder, FramedByte
from rtl.unordered import UNORDERED

BUFFERS = 2
"""Frames the receiver holds: one being executed, one being received."""

_BUFFER_BITS = ceil_log2(frames.MAX_PAYLOAD)


class SessionCrc(wiring.Component):
    """CRC of a payload as `hwq.frames.crc` has it, a bit a cycle, beginning with the session number.

    Latency: `o` and `o_good` are those of the bytes taken. Throughput: a byte in nine cycles. Backpressure: `i.ready`.

    Members
    -------
    i : payload bytes
    i_session : the session number
    i_restart : the next byte is a payload's first
    i_shift : let go of the lowest byte of `o`; takes as long as a byte; never beside `i.valid`
    o : CRC of the bytes so far
    o_ready : nothing is on the way
    o_good : the bytes so far end in the CRC of those before
    """

    i: In(stream.Signature(8))
    i_session: In(32)
    i_restart: In(1)
    i_shift: In(1)
    o: Out(32)
    o_ready: Out(1)
    o_good: Out(1)

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        # shifted right: the lowest bit is the next to go
        rest, first, place, busy, shifting = Signal(32), Signal(init=1), Signal(3), Signal(), Signal()
        bit = self.i.payload.bit_select(place, 1)
        feedback = (rest[0] ^ bit) & ~shifting
        algorithm = catalog.CRC32_ISO_HDLC
        polynomial = _reversed(algorithm.polynomial)
        opens = (self.i.payload & ~frames.REPLY & 0xFF) == frames.Kind.HELLO
        m.d.comb += [
            self.o.eq(~rest),
            self.o_ready.eq(~busy),
            self.o_good.eq(rest == algorithm(data_width=8).residue()),
            self.i.ready.eq(busy & (place == 7) & ~shifting),
        ]
        with m.If(busy):
            m.d.sync += [
                rest.eq((rest >> 1) ^ (feedback.replicate(32) & polynomial)),
                place.eq(place + 1),
                busy.eq(place != 7),
            ]
        with m.Elif(self.i_shift | self.i.valid):
            m.d.sync += [busy.eq(1), shifting.eq(self.i_shift)]
            with m.If(self.i.valid & first):
                m.d.sync += [first.eq(0), rest.eq(~self.i_session)]
                with m.If(opens):
                    m.d.sync += rest.eq(~0)
        with m.If(self.i_restart):
            m.d.sync += first.eq(1)
        return m


def _reversed(number: int) -> int:
    """Return the 32 bits of `number` in the other order."""
    return int(f"{number:032b}"[::-1], 2)


class FrameReceiver(wiring.Component):
    """Whole frames, checked, in a buffer.

    A frame that is broken, or comes while every buffer is full, is dropped without a trace.

    Latency: 2 cycles from the frame's last byte to `o_full`. Throughput: a byte in nine cycles. Backpressure:
    `i.ready`.

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
        count, words = Signal(range(frames.MAX_PAYLOAD + 2)), Signal(range(frames.MAX_WORDS + 1))
        carries, fits = Signal(), Signal()
        free, whole, stale, expected = Signal(), Signal(), Signal(), Signal(range(4 * 256 + 16))
        m.d.comb += [
            free.eq(~full.bit_select(taking, 1)),
            crc.i_session.eq(self.i_session),
            crc.i.payload.eq(item.byte),
            crc.i.valid.eq(decoder.o.valid & ~item.end),
            crc.i_restart.eq(decoder.o.valid & decoder.o.ready & item.end),
            decoder.o.ready.eq(Mux(item.end, crc.o_ready, crc.i.ready)),
            expected.eq(Mux(carries, words << 2, 0) + frames.HEADER.size + frames.CRC_BYTES),
            whole.eq(item.good & crc.o_good & (count == expected) & fits & ~stale),
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
                    m.d.sync += carries.eq(item.byte == frames.Kind.WRITE)
                with m.If(count == 2):
                    m.d.sync += [words.eq(item.byte), fits.eq(item.byte <= frames.MAX_WORDS)]
        with m.If(self.i_flush):
            m.d.sync += [full.eq(0), taking.eq(0), giving.eq(0)]
            with m.If(~(decoder.o.valid & decoder.o.ready & item.end)):
                m.d.sync += stale.eq((count != 0) | decoder.o.valid)
        return m


class FrameSender(wiring.Component):
    """Stuffed frames from payloads without their CRC.

    Latency: a payload is taken whole before its first byte is sent. Throughput: in, a byte in nine cycles; out, one a
    cycle. Backpressure: `i.ready` is low while a frame is sent and for the CRC's cycles.

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
        left = Signal(range(frames.CRC_BYTES + 1))
        m.d.comb += [crc.i_session.eq(self.i_session), crc.i.payload.eq(self.i.payload.byte)]
        with m.If(left == 0):
            m.d.comb += [
                encoder.i.payload.byte.eq(self.i.payload.byte),
                encoder.i.valid.eq(self.i.valid & crc.i.ready),
                crc.i.valid.eq(self.i.valid & encoder.i.ready),  # which stays ready until the byte comes
                self.i.ready.eq(crc.i.ready),
            ]
            with m.If(self.i.valid & self.i.ready & self.i.payload.last):
                m.d.sync += left.eq(frames.CRC_BYTES)
        with m.Else():
            m.d.comb += [
                encoder.i.payload.byte.eq(crc.o[:8]),
                encoder.i.payload.last.eq(left == 1),
                encoder.i.valid.eq(crc.o_ready),
            ]
            with m.If(encoder.i.valid & encoder.i.ready):
                m.d.comb += [crc.i_shift.eq(1), crc.i_restart.eq(left == 1)]
                m.d.sync += left.eq(left - 1)
        return m
