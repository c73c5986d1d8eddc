"""Properties of the host link: stuffing, CRC, frames and the serial line."""

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover, Module, Mux, Signal, Value

from hwq import frames
from rtl.pipeline import delayed
from tests.proofs.harness import drive, proof, since_reset


def steady(m: Module, stream) -> None:
    """Let `stream`, an input, keep what it offers until it is taken, as streams do."""
    waits = delayed(m, stream.valid & ~stream.ready, 1)
    payload = stream.payload.as_value() if hasattr(stream.payload, "as_value") else stream.payload
    kept = stream.valid & (payload == delayed(m, payload, 1))
    m.d.comb += Assume(~(since_reset(m, 1) & waits) | kept)


def keeps(m: Module, stream):
    """Return whether `stream` still offers what it offered in the cycle before, if it wasn't taken."""
    payload = stream.payload.as_value() if hasattr(stream.payload, "as_value") else stream.payload
    waits = delayed(m, stream.valid & ~stream.ready, 1)
    return ~(since_reset(m, 1) & waits) | (stream.valid & (payload == delayed(m, payload, 1)))


@proof("rtl.link.cobs", bug=("self.i.ready.eq(self.o.ready | ~self.o.valid)", "self.i.ready.eq(1)"), depth=2)
def cobs_decoder_keeps_its_offer(m, rtl):
    """What it offers stays until it is taken, where what it is offered does, from any state."""
    m.submodules.dut = dut = rtl.CobsDecoder()
    drive(m, dut)
    steady(m, dut.i)
    m.d.comb += [Assert(keeps(m, dut.o)), Cover(dut.o.valid & ~dut.o.ready & dut.o.payload.end & dut.o.payload.good)]


@proof("rtl.link.cobs", bug=("is_code.eq(1), implied.eq(0), empty.eq(1)", "is_code.eq(1), empty.eq(1)"), depth=9)
def cobs_decoder_begins_afresh(m, rtl):
    """For the 8 cycles after a zero byte, what came before makes no difference, from any two states."""
    m.submodules.one = one = rtl.CobsDecoder()
    m.submodules.other = other = rtl.CobsDecoder()
    drive(m, one)
    # both are given the zero byte and what follows; before it, the second one is given something else
    zero, alike = one.i.valid & (one.i.payload == 0) & one.o.ready, Signal(range(9))
    together = zero | (alike != 0)
    m.d.comb += [
        other.i.valid.eq(Mux(together, one.i.valid, AnySeq(1))),
        other.i.payload.eq(Mux(together, one.i.payload, AnySeq(8))),
        other.o.ready.eq(Mux(together, one.o.ready, AnySeq(1))),
    ]
    m.d.sync += alike.eq(Mux(zero, 8, Mux(alike == 0, 0, alike - 1)))
    same = (one.o.valid == other.o.valid) & (~one.o.valid | (one.o.payload.as_value() == other.o.payload.as_value()))
    with m.If(alike != 0):
        m.d.comb += [Assert(same), Assert(one.i.ready == other.i.ready), Cover(one.o.valid & one.o.payload.good)]
    m.d.comb += Assert(alike <= 8)


@proof(
    "rtl.link.cobs",
    bug=(
        "self.o.payload.eq(read.data)]\n                with m.If(self.o.ready):",
        "self.o.payload.eq(read.data)]\n                with m.If(1):",
    ),
    depth=2,
    reach=12,
)
def cobs_encoder_keeps_its_offer(m, rtl):
    """What it offers stays until it is taken, from any state."""
    m.submodules.dut = dut = rtl.CobsEncoder(6)
    drive(m, dut)
    steady(m, dut.i)
    m.d.comb += [Assert(keeps(m, dut.o)), Cover(dut.o.valid & (dut.o.payload == 3))]


def crc_step(rest, byte) -> Value:
    """Return CRC-32's register after a byte: its division by the polynomial, low bit first."""
    for bit in range(8):
        out = rest[0] ^ byte[bit]
        rest = (rest >> 1) ^ Mux(out, 0xEDB88320, 0)
    return rest[:32]


@proof("rtl.link.frames", bug=("(rest[0] ^ bit) & ~shifting", "(rest[0] ^ bit)"), depth=19, anywhere=True)
def session_crc_divides(m, rtl):
    """A byte after another, one after a restart and a shift give CRC-32's next register in 9 cycles, from any state."""
    m.submodules.dut = dut = rtl.SessionCrc()
    drive(m, dut)
    steady(m, dut.i)
    m.d.comb += Assume(~(dut.i.valid & dut.i_shift))
    byte, before, session = (delayed(m, value, 9) for value in (dut.i.payload, ~dut.o, dut.i_session))
    took, shifted = delayed(m, dut.o_ready & dut.i.valid, 9), delayed(m, dut.o_ready & dut.i_shift, 9)
    restarted, another = delayed(m, dut.i_restart, 10), delayed(m, took | shifted, 9)
    plain = delayed(m, took, 9)
    quiet = Signal(range(32))
    m.d.sync += quiet.eq(Mux(dut.i_restart, 0, Mux(quiet == 31, 31, quiet + 1)))
    opens = (byte & ~frames.REPLY & 0xFF) == frames.Kind.HELLO
    with m.If(since_reset(m, 19) & another & (took | shifted)):
        m.d.comb += [Assert(dut.o_ready), Cover(restarted), Cover(shifted)]
        with m.If(shifted):
            m.d.comb += Assert(~dut.o == before >> 8)
        with m.Elif(restarted):
            m.d.comb += Assert(~dut.o == crc_step(Mux(opens, 0xFFFFFFFF, ~session), byte))
        with m.Elif(plain & (quiet >= 19)):
            m.d.comb += [Assert(~dut.o == crc_step(before, byte)), Cover(dut.o_good)]


@proof("rtl.link.frames", bug=("write.en.eq(free & (count", "write.en.eq((count"), depth=4, anywhere=True, slow=True)
def received_frame_stays(m, rtl):
    """A frame that waits keeps its bytes, whatever is received meanwhile, until it is let go of, from any state."""
    m.submodules.dut = dut = rtl.FrameReceiver()
    drive(m, dut)
    place = AnyConst(len(dut.i_address))
    m.d.comb += Assume(dut.i_address == place)
    waits = delayed(m, dut.o_full & ~dut.i_free & ~dut.i_flush, 1)
    shown = delayed(m, waits, 1)  # the byte comes a cycle after its address
    with m.If(since_reset(m, 3) & waits):
        m.d.comb += Assert(dut.o_full)
    before = delayed(m, dut.o_byte, 1)
    with m.If(since_reset(m, 3) & waits & shown):
        m.d.comb += Assert(dut.o_byte == before)
    m.d.comb += Cover(since_reset(m, 3) & waits & shown & dut.i.valid & dut.i.ready)


@proof("rtl.link.uart", bug=("Cat(data[1:], line)", "Cat(line, data[:7])"), depth=60, bounded=True)
def serial_line_carries_bytes(m, rtl):
    """The byte given to a transmitter comes out of a receiver, and nothing before it, over 60 cycles of 4 a bit."""
    m.submodules.sender = sender = rtl.UartTransmitter(4)
    m.submodules.receiver = receiver = rtl.UartReceiver(4)
    drive(m, sender)
    sent, count, got = Signal(8), Signal(4), Signal(4)
    with m.If(sender.i.valid & sender.i.ready):
        m.d.sync += [sent.eq(sender.i.payload), count.eq(count + 1)]
    with m.If(receiver.o.valid):
        m.d.sync += got.eq(got + 1)
        m.d.comb += [Assert(receiver.o.payload == sent), Assert(got < count), Cover((got == 0) & (sent == 0xA5))]
    m.d.comb += [receiver.i.eq(sender.o), receiver.o.ready.eq(1)]
    m.d.comb += Assume(~sender.i.valid | (count == got))
