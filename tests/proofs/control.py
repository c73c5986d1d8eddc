"""Properties of what starts and stops: the sequencer, and the host's port."""

from dataclasses import replace

from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Mux, Signal

from hwq import isa, pipeline
from rtl.pipeline import delayed
from tests import programs
from tests.proofs.harness import drive, proof, since_reset

CONFIG = programs.tiny(8, 16, 16, 8, weight_bits=4, act_bits=4, codebooks=1, block_scales=1)


def sequencer(m: Module, rtl):
    m.submodules.dut = dut = rtl.Sequencer(CONFIG)
    drive(m, dut)
    return dut


@proof(
    "rtl.sequencer",
    bug=(
        "with m.If(self.i_clear):\n            m.d.sync += [\n                self.o_busy.eq(0),",
        "with m.If(self.i_clear):\n            m.d.sync += [",
    ),
    depth=1,
)
def sequencer_is_idle_after_a_clear(m, rtl):
    """In the cycle after a clear it is idle, without error, runs no layer and reads none, from any state."""
    dut = sequencer(m, rtl)
    with m.If(delayed(m, dut.i_clear & since_reset(m, 1), 1)):
        m.d.comb += [Assert(~(dut.o_busy | dut.o_layer | dut.o_loading | dut.o_done)), Assert(dut.o_error == 0)]
    m.d.comb += Cover(delayed(m, dut.o_busy & dut.i_clear, 1))


@proof(
    "rtl.sequencer", bug=("(idle_cycles >= self.i_watchdog)", "(idle_cycles > self.i_watchdog + 1)"), depth=14, reach=42
)
def sequencer_stops_where_nothing_moves(m, rtl):
    """No layer goes on for more than i_watchdog + 2 cycles without progress, for watchdogs of 1 to 6."""
    dut = sequencer(m, rtl)
    watchdog, still = AnyConst(3), Signal(4)
    m.d.comb += [Assume(dut.i_watchdog == watchdog), Assume((watchdog != 0) & (watchdog != 7))]
    with m.If(~dut.o_layer | dut.i_progress):
        m.d.sync += still.eq(0)
    with m.Else():
        m.d.sync += still.eq(still + 1)
    m.d.comb += [Assert(still <= watchdog + 2), Cover(dut.o_error == isa.ErrorCode.WATCHDOG)]


@proof(
    "rtl.sequencer",
    bug=("m.d.sync += self.o_abort.eq(", "m.d.comb += self.o_abort.eq("),
    depth=33,
    bounded=True,
    slow=True,
)
def sequencer_starts_units_in_a_layer(m, rtl):
    """No unit starts but in a layer, or together with its clear; 33 cycles."""
    dut = sequencer(m, rtl)
    starts = dut.o_conv | dut.o_depthwise | dut.o_vector | dut.o_back
    writing = Signal()  # a result can't have been written before
    with m.If(dut.o_back):
        m.d.sync += writing.eq(1)
    m.d.comb += [Assume(~dut.i_layer_done | writing), Assert(~starts | dut.o_layer | dut.o_abort)]
    m.d.comb += Cover(starts & dut.o_abort)


def illegal(words: list, config) -> tuple:
    """Return whether a descriptor's opcode, and whether its fields, are refused: `hwq.isa`'s prose, as gates."""
    d = {}
    for field in isa.DESCRIPTOR:
        bits = words[field.word][field.lsb : field.lsb + field.width]
        d[field.name] = bits.as_signed() if field.signed else bits
    op = d["opcode"]
    conv, vector, depthwise = (op == code for code in (isa.Opcode.CONV, isa.Opcode.VECTOR, isa.Opcode.DEPTHWISE))
    narrow, book, scaled, strips = d["int4"], d["codebook"] != 0, d["scaled"], d["strips"] != 0
    two_a_column = narrow & ~scaled
    most = Mux(conv, config.cols << two_a_column, Mux(depthwise, config.depthwise_cols, config.lanes))
    rules = [
        *((word & ~mask) != 0 for word, mask in zip(words, config.legal_masks(), strict=True)),
        *(d[field.name] == 0 for field in isa.DESCRIPTOR if field.nonzero),
        d["last_channels"] > most,
        d["table"] > config.tables,
        depthwise & d["residual"],
        depthwise & (d["span"] == 1) & (d["short_from"] != 0),
        strips & ~depthwise,
        strips & ((d["span"] > config.strip_columns) | (d["taps_y"] >= pipeline.STRIP_STEPS)),
        strips & (d["pixels"][0] | (d["row_pixels"] != 2)),
        strips & ((d["taps_x"] != 1) | (d["repeats"] != 0) | (d["short_from"] != 0)),
        d["product"] & (~vector | ~d["residual"] | (d["reduce"] != isa.Reduce.MAX)),
        vector & (narrow | book),
        book & narrow,
        d["codebook"] == 3,
        scaled & ~conv,
        (d["ifm_int4"] | d["ofm_int4"]) & ~conv,
        d["ifm_int4"] & (narrow | book | scaled),
    ]
    return ~(conv | vector | depthwise), Cat(rules).any()


@proof(
    "rtl.sequencer",
    bug=("alone = (read.opcode != isa.Opcode.CONV) |", "alone = (read.opcode == isa.Opcode.VECTOR) |"),
    depth=34,
    bounded=True,
    slow=True,
)
def decoder_is_total(m, rtl):
    """Each of the 2**768 descriptors is, within 33 cycles of a start, done, its unit's start, or its rule's error."""
    dut = sequencer(m, rtl)
    words = [AnyConst(32) for _ in range(isa.DESCRIPTOR_WORDS)]
    first = since_reset(m, 1)
    m.d.comb += [Assume(dut.i_start == ~first), Assume(~dut.i_clear), Assume(dut.i_pc == 0)]
    at, word = delayed(m, dut.o_address, 2), Signal(32)
    with m.Switch(at):
        for index, value in enumerate(words):
            with m.Case(index):
                m.d.comb += word.eq(value)
    m.d.comb += Assume(dut.i_word == word)
    opcode, field = illegal(words, CONFIG)
    halt = words[0][:8] == isa.Opcode.HALT
    started = Signal()  # since then a layer has run, which may meet a range's error
    with m.If(dut.o_layer):
        m.d.sync += started.eq(1)
    decided = dut.o_done | (dut.o_error != 0) | dut.o_layer | started
    with m.If(~started):
        m.d.comb += [
            Assert(~dut.o_done | halt),
            Assert((dut.o_error != isa.ErrorCode.ILLEGAL_OPCODE) | (~halt & opcode)),
            Assert((dut.o_error != isa.ErrorCode.ILLEGAL_FIELD) | (~halt & ~opcode & field)),
            Assert(dut.o_error <= isa.ErrorCode.ILLEGAL_FIELD),
            Assert(~dut.o_layer | ~(halt | opcode | field)),
        ]
    starts = ((isa.Opcode.CONV, dut.o_conv), (isa.Opcode.DEPTHWISE, dut.o_depthwise), (isa.Opcode.VECTOR, dut.o_vector))
    m.d.comb += [Assert(~start | (words[0][:8] == code)) for code, start in starts]
    with m.If(since_reset(m, 33)):
        m.d.comb += [
            Assert(decided),
            Cover(dut.o_done),
            Cover(dut.o_error == 1),
            Cover(dut.o_error == 2),
            Cover(dut.o_layer),
        ]


@proof(
    "rtl.sequencer",
    bug=("[halt.eq(0), bad_field.eq(1), sound.eq(0)]", "[bad_field.eq(1), sound.eq(0)]"),
    depth=34,
    bounded=True,
)
def spoilt_descriptor_is_not_obeyed(m, rtl):
    """One read with wrong bytes starts no unit, isn't done, and has failed with MEMORY_PARITY within 33 cycles."""
    m.submodules.dut = dut = rtl.Sequencer(replace(CONFIG, parity=1))
    drive(m, dut)
    wrong = [AnyConst(4) for _ in range(isa.DESCRIPTOR_WORDS)]
    m.d.comb += [Assume(dut.i_start == ~since_reset(m, 1)), Assume(~dut.i_clear), Assume(dut.i_pc == 0)]
    m.d.comb += Assume(Cat(wrong).any())
    with m.Switch(delayed(m, dut.o_address, 2)):
        for index, value in enumerate(wrong):
            with m.Case(index):
                m.d.comb += Assume(dut.i_word_wrong == value)
    m.d.comb += [
        Assert(~(dut.o_conv | dut.o_depthwise | dut.o_vector | dut.o_layer | dut.o_done)),
        Assert((dut.o_error == 0) | (dut.o_error == isa.ErrorCode.MEMORY_PARITY) | ~since_reset(m, 2)),
    ]
    with m.If(since_reset(m, 33)):
        m.d.comb += [Assert(dut.o_error == isa.ErrorCode.MEMORY_PARITY), Cover(~dut.o_busy)]


def host_port(m: Module, rtl):
    m.submodules.dut = dut = rtl.HostPort(CONFIG)
    drive(m, dut)
    return dut, dut.bus.cyc & dut.bus.stb


@proof("rtl.host_port", bug=("request & ~self.i_busy & (region", "request & (region"), depth=2)
def host_port_is_shut_while_busy(m, rtl):
    """A window is read or written a cycle after it was asked for while the core was idle; one at most, as asked."""
    dut, asked = host_port(m, rtl)
    both, begun = Cat(dut.o_read, dut.o_write), since_reset(m, 1)
    idle, write = delayed(m, asked & ~dut.i_busy, 1), delayed(m, dut.bus.we, 1)
    with m.If(begun):
        m.d.comb += [
            Assert((both & (both - 1)[: len(both)]) == 0),
            Assert((both == 0) | (idle & (dut.o_write.any() == write))),
            Cover(dut.o_write[isa.Region.ACT]),
        ]


@proof("rtl.host_port", bug=("with m.If(bus.we | (waited ==", "with m.If(~bus.we & (waited =="), depth=20)
def host_port_answers_every_request(m, rtl):
    """A request held is acknowledged within 17 cycles, for one cycle, and nothing else is, from any state."""
    dut, asked = host_port(m, rtl)
    bus, waited = dut.bus, Signal(5)
    with m.If(asked & ~bus.ack):
        m.d.sync += waited.eq(waited + 1)
    with m.Else():
        m.d.sync += waited.eq(0)
    before, answered = delayed(m, asked, 1), delayed(m, bus.ack, 1)
    begun = since_reset(m, 1)
    # an initiator holds its request until it is acknowledged
    held = Cat(bus.we, bus.adr, bus.cyc, bus.stb)
    m.d.comb += Assume(~begun | ~before | answered | (held == delayed(m, held, 1)))
    with m.If(begun):
        m.d.comb += [Assert(~bus.ack | (before & ~answered)), Assert(waited <= 17), Cover(bus.ack & ~bus.we)]
