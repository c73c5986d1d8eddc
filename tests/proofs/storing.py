"""Properties of what keeps bytes for a while: delay lines, serializers, queues and memories."""

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Mux, Signal, Value
from amaranth.lib.wiring import Out

from rtl.pipeline import delayed
from tests import programs
from tests.proofs.harness import drive, proof, since_reset


@proof("rtl.pipeline", bug=("read.addr.eq(now - (cycles - 1))", "read.addr.eq(now - cycles)"), depth=7, anywhere=True)
def recalled_is_delayed(m, rtl):
    """A delay line in memory gives what registers do, for 2 to 6 cycles."""
    value = AnySeq(8)
    for cycles in range(2, 7):
        m.submodules[f"line_{cycles}"] = line = Module()
        in_memory, in_registers = rtl.recalled(line, value, cycles), delayed(m, value, cycles)
        with m.If(since_reset(m, 6)):
            m.d.comb += [Assert(in_memory == in_registers), Cover(in_memory == 77)]


@proof("rtl.parity", bug=("Cat(byte, byte.xor())", "Cat(byte, byte[1:].xor())"), depth=1)
def parity_tells_the_byte(m, rtl):
    """Of a stored word, the bytes told wrong are those of whose nine bits an odd number has changed; four bytes."""
    value, changed = AnySeq(32), AnySeq(4 * rtl.PARITY_BYTE)
    found, wrong = rtl.checked(rtl.stored(value) ^ changed)
    for byte in range(4):
        bits = changed[9 * byte : 9 * byte + 9]
        m.d.comb += Assert(wrong[byte] == bits.xor())
        m.d.comb += Assert(found[8 * byte : 8 * byte + 8] == value[8 * byte : 8 * byte + 8] ^ bits[:8])
    m.d.comb += Cover((value == 0x80FF0100) & (changed == 1 << 17) & (wrong == 2))


@proof("rtl.serializer", bug=("Cat(source[8:], Const(0, 8))", "Cat(active[8:], Const(0, 8))"), depth=14, bounded=True)
def serializer_keeps_every_byte(m, rtl):
    """Byte i of a part comes out i + 1 steps after the part was taken, whatever is written meanwhile; 14 cycles."""
    m.submodules.dut = dut = rtl.Serializer(fetch_bytes=4)
    drive(m, dut)
    index, waiting, wanted = AnyConst(2), Signal(8), Signal(8)
    full, left, due = Signal(), Signal(3), Signal()  # a part waits; steps to the byte, 7: none to come
    take = dut.i_step & dut.i_take
    m.d.comb += [Assume(~dut.i_take | (dut.i_step & full)), Assume(~dut.i_write | ~full | take)]
    with m.If(take):
        m.d.sync += [full.eq(0), wanted.eq(waiting), left.eq(Mux(index == 0, 7, index - 1)), due.eq(index == 0)]
    with m.Elif(dut.i_step):
        m.d.sync += [left.eq(Mux((left == 0) | (left == 7), 7, left - 1)), due.eq(left == 0)]
    with m.If(dut.i_write):
        m.d.sync += [full.eq(1), waiting.eq(dut.i_data.word_select(index, 8))]
    # the output keeps its byte until the next step
    with m.If(due):
        m.d.comb += [Assert(dut.o == wanted), Cover((index == 3) & (wanted == 9) & full)]


@proof(
    "rtl.write_queue",
    bug=(
        "self.o_valid.eq(following != written)",
        "self.o_valid.eq(following != written + write.en)",
    ),
    depth=11,
    bounded=True,
    slow=True,
)
def write_queue_keeps_order(m, rtl):
    """Every byte comes out once, in its word, at its address, in order of arrival; any 11 cycles after reset."""
    config = programs.tiny(4, 4, 4, 1, act_ports=1)
    m.submodules.dut = dut = rtl.WriteQueue(config)
    drive(m, dut)
    lane, words_in, words_out, begin = Signal(2), Signal(4), Signal(4), Signal.like(dut.i_address)
    first = Mux(lane == 0, dut.i_address, begin)
    # neighbours' bytes, of a word that begins at an even address unless it is a single one
    m.d.comb += [
        Assume(~dut.i_write | (lane == 0) | (dut.i_address == (begin + lane)[: len(begin)])),
        Assume(~dut.i_write | dut.i_end | ~first[0]),
        Assume(~dut.i_write | dut.i_end | (lane != 3)),
        Assume(~dut.i_clear),
        Assume(~dut.i_take | dut.o_valid),
    ]
    number, place = AnyConst(4), AnyConst(2)  # one byte: of which word, which of its bytes
    byte, at, kept, final = Signal(8), Signal.like(dut.i_address), Signal(), Signal()
    with m.If(dut.i_write):
        m.d.sync += [begin.eq(first), lane.eq(Mux(dut.i_end, 0, lane + 1)), words_in.eq(words_in + dut.i_end)]
        with m.If((words_in == number) & (lane == place)):
            m.d.sync += [byte.eq(dut.i_data), at.eq(dut.i_address), kept.eq(1), final.eq(dut.i_final)]
    with m.If(dut.i_take):
        m.d.sync += words_out.eq(words_out + 1)
    with m.If(dut.o_valid):
        m.d.comb += Assert(words_out < words_in)
        with m.If(kept & (words_out == number)):
            where = (at - dut.o_address)[:2]
            m.d.comb += [
                Assert(dut.o_data.as_value().word_select(where, 8) == byte),
                Assert(dut.o_mask.bit_select(where, 1)),
                Assert((at - dut.o_address)[: len(at)] < 4),
                Cover((number == 2) & (place == 1)),
            ]
    m.d.comb += Assert((words_in == words_out) | dut.o_valid | ~since_reset(m, 3) | recent(m, words_in))


def recent(m: Module, count: Value) -> Value:
    """Return whether `count` has changed in the last two cycles."""
    return count != delayed(m, count, 2)


@proof(
    "rtl.act_ram",
    bug=("write_past.eq(write_end > self._bytes)", "write_past.eq(0)"),
    depth=13,
    anywhere=True,
    slow=True,
)
def act_ram_keeps_a_byte(m, rtl):
    """A byte keeps its value while no write names it, those past the end are dropped, and reads find it; 13 cycles."""
    config = programs.tiny(4, 4, 4, 1, act_bytes=16)
    m.submodules.dut = dut = rtl.ActRam(config)
    drive(m, dut)
    for count, most in ((dut.i_write_count, dut.write_bytes), (dut.i_count, config.fetch_bytes)):
        m.d.comb += [Assume(count >= 1), Assume(count <= most)]
    for lane in range(dut.write_bytes):
        m.d.comb += Assume(~dut.i_write_mask[lane] | (dut.i_write_count > lane))
    place = AnyConst(range(config.act_bytes))
    lane = (place - dut.i_write_address).as_signed()
    inside = (lane >= 0) & (lane < dut.write_bytes)
    past = dut.i_write_address + dut.i_write_count > config.act_bytes
    named = dut.i_write & ~past & inside & dut.i_write_mask.bit_select(lane[:2], 1)
    value = dut.i_write_data.as_value().word_select(lane[:2], 8)
    # since a write of it, which a read that begins two cycles later finds
    byte, age = Signal(8), Signal(range(7))
    m.d.sync += age.eq(Mux(age == 6, 6, age + 1))
    with m.If(named):
        m.d.sync += [byte.eq(value), age.eq(0)]
    offset = (place - dut.i_address).as_signed()
    found = dut.i_read & (offset >= 0) & (offset < config.fetch_bytes) & (age >= 2) & (age < 5) & ~named
    shown = delayed(m, found, 6)
    read = dut.o_data.as_value().word_select(delayed(m, offset[:2], 6), 8)
    m.d.comb += Assert(age <= 6)
    late = delayed(m, byte, 6)
    with m.If(since_reset(m, 13) & shown):
        m.d.comb += [Assert(read == late), Cover(late == 3)]
    read_past = dut.i_read & (dut.i_address + dut.i_count > config.act_bytes)
    ranges = delayed(m, (dut.i_write & past) | read_past, 3)
    m.d.comb += Assert(~since_reset(m, 13) | (dut.o_range == ranges))


@proof("rtl.lookahead", bug=("free.eq(~steps.valid | steps.step)", "free.eq(1)"), depth=2)
def lookahead_keeps_its_step(m, rtl):
    """A step that is offered stays until it is taken or all is cleared, from any state."""
    m.submodules.dut = dut = rtl.Lookahead(programs.tiny(4, 4, 4, 1))
    drive(m, dut)
    steps = dut.steps
    outward = [name for name, member in steps.signature.members.items() if member.flow is Out]
    offered = Cat(getattr(steps, name) for name in outward if name != "valid")
    waits = delayed(m, steps.valid & ~steps.step & ~dut.i_clear, 1)
    before = delayed(m, offered, 1)
    with m.If(since_reset(m, 1) & waits):
        m.d.comb += [Assert(steps.valid), Assert(offered == before), Cover(offered.all())]


@proof("rtl.lookahead", bug=("runs & ~kept & use", "runs & use"), depth=12, bounded=True)
def lookahead_loses_no_step(m, rtl):
    """Steps leave in the order in which they are taken from the unit, each of them once; 12 cycles."""
    m.submodules.dut = dut = rtl.Lookahead(programs.tiny(6, 4, 4, 2))
    drive(m, dut)
    taken, left = Signal.like(dut.source.address), Signal.like(dut.source.address)
    strips = AnyConst(1)
    m.d.comb += [Assume(unit.address == taken) for unit in (dut.source, dut.strips)]
    m.d.comb += [Assume(~dut.i_clear), Assume(~dut.steps.step | dut.steps.valid), Assume(dut.i_strips == strips)]
    m.d.sync += [taken.eq(taken + (dut.source.step | dut.strips.step)), left.eq(left + dut.steps.step)]
    m.d.comb += Assert(~Mux(strips, dut.source.step, dut.strips.step))
    m.d.comb += [Assert(~dut.steps.valid | (dut.steps.address == left)), Cover((left == 2) & (taken == 4))]
    m.d.comb += Assert(dut.steps.valid == (taken != left))


@proof("rtl.codebook", bug=("write.addr.eq(entry)", "write.addr.eq(self.i_index[c])"), depth=6, anywhere=True)
def codebook_keeps_an_entry(m, rtl):
    """An entry is what was loaded last, in every column, while others are loaded; 5 cycles, from any state."""
    m.submodules.dut = dut = rtl.Codebook(cols=3)
    drive(m, dut)
    m.d.comb += Assume(dut.i_column < 3)
    entry, value, age = AnyConst(4), Signal(8), Signal(range(6), init=5)
    m.d.sync += age.eq(Mux(age >= 5, 5, age + 1))
    with m.If(dut.i_load & (dut.i_entry == entry)):
        m.d.sync += [value.eq(dut.i_word.as_value().word_select(dut.i_column, 8)), age.eq(0)]
    m.d.comb += Assert(age <= 5)
    for column in range(3):
        with m.If((age > 0) & (age < 5) & (dut.i_index[column] == entry)):
            m.d.comb += [Assert(dut.o[column] == value), Cover(age == 3)]
