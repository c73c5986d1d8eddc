"""Link device: executes the host's frames on the bus and answers them."""

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import frames, isa
from hwq.frames import Kind
from rtl.bus import BusSignature
from rtl.link.frames import FrameReceiver, FrameSender


class LinkDevice(wiring.Component):
    """Requests in, bus transfers, replies out; `hwq.frames` says which request is executed and how it is answered.

    Latency: about 150 cycles from a request's end to its reply's first byte, and 50 more for every word. Throughput:
    one request at a time; the next one is received meanwhile. Backpressure: nine cycles a byte on `i`; frames that
    find no buffer are dropped, and the host sends them again.

    Members
    -------
    i, o : stuffed bytes from and to the host
    bus : the accelerator
    """

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))
    bus: Out(BusSignature())

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        m.submodules.receiver = receiver = FrameReceiver()
        m.submodules.sender = sender = FrameSender()
        wiring.connect(m, wiring.flipped(self.i), receiver.i)
        wiring.connect(m, wiring.flipped(self.o), sender.o)
        bus, out = self.bus, sender.i

        session, expected = Signal(32), Signal(8)
        header = Signal(8 * frames.HEADER.size)  # of the request, then of the reply
        kind, sequence, words, address = header[:8], header[8:16], header[16:24], header[32:64]
        reads, shown = Signal(), Signal()  # the second: a byte to be sent is in its register
        free, flush = Signal(), Signal()
        place, here = Signal(range(frames.MAX_PAYLOAD)), Signal()
        word, index, last, behind = Signal(32), Signal(8), Signal(), Signal(8)
        offset = Signal(isa.REGION_SHIFT - 2)
        m.d.comb += [
            receiver.i_session.eq(session),
            sender.i_session.eq(session),
            receiver.i_address.eq(place),
            receiver.i_free.eq(free),
            receiver.i_flush.eq(flush),
            behind.eq(expected - sequence),
            bus.adr.eq(Cat(offset, address[isa.REGION_SHIFT :])),
            bus.dat_w.eq(word),
            bus.sel.eq(0xF),
            out.valid.eq(shown),
        ]

        # what is asked of a header a cycle after it has come, of a word later
        unlike, due, refused = Signal(), Signal(), Signal()
        unknown = (kind != Kind.READ) & (kind != Kind.WRITE)
        m.d.sync += [
            unlike.eq(session != address),
            due.eq(behind == 0),
            refused.eq(unknown | (behind > frames.WINDOW)),
            last.eq(index == words - 1),
            offset.eq(address[2 : isa.REGION_SHIFT] + index),  # a frame stays in its window
        ]

        m.d.sync += [free.eq(0), flush.eq(0)]

        def shift_in(target, then):
            """Fill `target` with the bytes from `place` on, each of which takes two cycles."""
            count = len(target) // 8
            m.d.sync += here.eq(~here)
            with m.If(here):
                m.d.sync += [target.eq(Cat(target[8:], receiver.o_byte)), place.eq(place + 1)]
                with m.If(place[: ceil_log2(count)] == count - 1):
                    m.next = then

        def shift_out(source, then, *, final):
            """Send the bytes of `source`, which then holds them again; `final` ends the frame."""
            m.d.sync += [
                shown.eq(1),
                out.payload.byte.eq(source[:8]),
                out.payload.last.eq(final & (place == len(source) // 8 - 1)),
            ]
            with m.If(out.ready):
                m.d.sync += [source.eq(Cat(source[8:], source[:8])), place.eq(place + 1), shown.eq(0)]
                with m.If(place == len(source) // 8 - 1):
                    m.d.sync += place.eq(0)
                    m.next = then

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [place.eq(0), index.eq(0), here.eq(0)]
                with m.If(receiver.o_full):
                    m.next = "HEADER"
            with m.State("HEADER"):
                shift_in(header, "WEIGH")
            with m.State("WEIGH"):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.sync += [kind.eq(kind | frames.REPLY), reads.eq(0)]
                m.next = "FREE"
                with m.If(kind == Kind.HELLO):
                    m.d.sync += [words.eq(0), session.eq(address), address.eq(frames.VERSION)]
                    with m.If(unlike):
                        m.d.sync += [expected.eq(0), flush.eq(1)]
                        m.next = "REPLY"
                with m.Elif(refused):
                    m.d.sync += [kind.eq(frames.REPLY | Kind.REFUSED), sequence.eq(expected), words.eq(0)]
                with m.Else():
                    m.d.sync += [reads.eq((kind == Kind.READ) & (words != 0)), expected.eq(expected + due)]
                    with m.If((kind == Kind.WRITE) & (words != 0) & due):
                        m.next = "DATA"
            with m.State("DATA"):
                shift_in(word, "WRITE")
            with m.State("WRITE"):
                m.d.comb += [bus.cyc.eq(1), bus.stb.eq(1), bus.we.eq(1)]
                with m.If(bus.ack):
                    m.d.sync += index.eq(index + 1)
                    m.next = "DATA"
                    with m.If(last):
                        m.next = "FREE"
            with m.State("FREE"):
                m.d.sync += free.eq(1)
                m.next = "REPLY"
            with m.State("REPLY"):
                m.d.sync += [place.eq(0), index.eq(0)]
                m.next = "SEND"
            with m.State("SEND"):
                shift_out(header, "SEEK", final=~reads)
            with m.State("SEEK"):
                m.next = "IDLE"
                with m.If(reads):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += [bus.cyc.eq(1), bus.stb.eq(1)]
                with m.If(bus.ack):
                    m.d.sync += word.eq(bus.dat_r)
                    m.next = "WORD"
            with m.State("WORD"):
                shift_out(word, "NEXT", final=last)
            with m.State("NEXT"):
                m.d.sync += index.eq(index + 1)
                m.next = "SEEK"
                with m.If(last):
                    m.next = "IDLE"
        return m
