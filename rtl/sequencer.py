"""Sequencer: reads descriptors, checks them and starts the units, one layer after another."""

import functools

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwq import isa, pipeline
from hwq.config import ArrayConfig
from rtl.layouts import (
    PIXELS,
    BaseControl,
    address_shape,
    descriptor_layout,
    field_slice,
    held_field,
    kept_fields,
    param_address_shape,
    tile_excess,
    weight_address_shape,
)
from rtl.paired import wide_blocks
from rtl.pipeline import delayed


class Sequencer(wiring.Component):
    """Walk the descriptors of program memory until HALT or an error.

    The next descriptor is read and checked while the current one runs; a unit is started when the one before has
    written its last result. A layer of the mesh that may be `early` begins when one ahead of it on the mesh, with
    neither second operands nor scales, has issued its last step; the drain unit changes to its descriptor when it has
    read that one's last result. The first error is kept with its slot, every unit is cleared and the program stops.

    Where layers never overlap there is one descriptor, which is read when the layer before has ended.

    Latency: `descriptor_load` cycles from a descriptor's start, where layers never overlap from its layer's last write,
    until the next one is ready; 2 cycles from a layer's last write to the next layer's start, once the next descriptor
    is ready. The output path, and the vector unit with
    it, starts `BACK_START` cycles after the units of the mesh.

    Members
    -------
    i_start, i_pc : begin at slot `i_pc`; ignored while busy
    i_clear : abort; busy, done and error fall
    i_watchdog, i_progress : cycles without `i_progress` until `ErrorCode.WATCHDOG`, which comes up to two later; 0
        switches it off
    i_act_range, i_weight_range, i_param_range : a unit's address has left its memory
    i_wrong : with `config.parity`, a byte that the layer, or while idle the host, has read isn't as it was written
    i_drained : the last result of the drain unit's layer has been read out of the mesh
    i_layer_done : the running layer's last result has been written
    o_address, i_word : program memory's read port, one cycle of latency, and a register where layers overlap
    i_word_wrong : with `config.parity`, the bytes of `i_word` that aren't as they were written
    i_fetching : passes or mesh steps of the last started layer remain
    o_front : the layer that fetches and multiplies
    o_descriptor : the layer whose results enter the output path
    ifm_base, weight_base : move the front layer's
    ofm_base, param_base : move the back layer's
    o_conv, o_depthwise, o_vector : start pulses of the units that read
    o_front_depthwise, o_front_vector, o_vector_results : the front layer is DEPTHWISE, VECTOR, `o_descriptor` is VECTOR
    o_back, o_back_next : start pulse of the output path; it comes in the next cycle
    o_loading : waiting for a descriptor
    o_layer : a layer is running
    o_retired : with `o_pc`, the layer in that slot has ended
    o_abort : clear every unit; a cycle after the cause
    o_busy, o_done, o_error, o_pc : status
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        super().__init__(
            {
                "i_start": In(1),
                "i_pc": In(range(2 * config.slots)),
                "i_clear": In(1),
                "i_watchdog": In(32),
                "i_progress": In(1),
                "i_act_range": In(1),
                "i_weight_range": In(1),
                "i_param_range": In(1),
                "i_drained": In(1),
                "i_layer_done": In(1),
                "o_address": Out(range(config.slots * isa.SLOT_WORDS)),
                "i_word": In(32),
                "i_fetching": In(1),
                "o_front": Out(descriptor_layout(config)),
                "o_descriptor": Out(descriptor_layout(config)),
                "ifm_base": In(BaseControl(address_shape(config))),
                "weight_base": In(BaseControl(weight_address_shape(config))),
                "ofm_base": In(BaseControl(address_shape(config))),
                "param_base": In(BaseControl(param_address_shape(config))),
                "o_front_depthwise": Out(1),
                "o_front_vector": Out(1),
                "o_vector_results": Out(1),
                "o_back": Out(1),
                "o_back_next": Out(1),
                "o_conv": Out(1),
                "o_depthwise": Out(1),
                "o_vector": Out(1),
                "o_loading": Out(1),
                "o_layer": Out(1),
                "o_retired": Out(1),
                "o_abort": Out(1),
                "o_busy": Out(1),
                "o_done": Out(1),
                "o_error": Out(8),
                "o_pc": Out(16),
            }
            | ({"i_wrong": In(1), "i_word_wrong": In(4)} if config.parity else {})
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config = self._config
        upcoming = Signal(descriptor_layout(config)) if config.overlaps else self.o_front
        # its words are being read, are there, are checked, make a layer
        loading, whole, loaded, sound = Signal(), Signal(), Signal(), Signal()
        known, faulty, inside = Signal(), Signal(), Signal()
        next_pc = Signal(range(2 * config.slots))
        word = Signal(range(isa.DESCRIPTOR_WORDS + 1))
        stray, strays = Signal(), Signal(8)  # a word has had bits that nothing is meant by, the last one has
        codes = set(isa.ErrorCode) if config.parity else set(isa.ErrorCode) - {isa.ErrorCode.MEMORY_PARITY}
        error, failed = Signal(range(max(codes) + 1)), Signal()
        idle_cycles, stalled = Signal(32), Signal()

        # read: one word a cycle; `arrived` is the index of the word on i_word
        reading, late = Signal(), int(config.overlaps)
        # a word that comes after an abort is of no descriptor, not of the next program's first one either
        valid, arrived = loading & delayed(m, reading, 1 + late), delayed(m, word, 1 + late)
        m.d.comb += [
            reading.eq(loading & (word != isa.DESCRIPTOR_WORDS)),
            self.o_address.eq(next_pc * isa.SLOT_WORDS + word),
        ]
        with m.If(reading):
            m.d.sync += word.eq(word + 1)
        legal, masks = Signal(32), config.legal_masks()  # what may be set in the word to come
        if config.small:  # which has block RAM to spare
            m.submodules.masks = memory = Memory(shape=32, depth=32, init=masks, attrs={"rom_style": "block"})
            port = memory.read_port()
            m.d.comb += [port.addr.eq(word), legal.eq(port.data)]
        else:
            columns = [sum((mask >> bit & 1) << index for index, mask in enumerate(masks)) for bit in range(32)]
            m.d.sync += legal.eq(Cat(Const(column, len(masks)).bit_select(word, 1) for column in columns))
        unknown = self.i_word & ~delayed(m, legal, late)
        # the words of a memory are late in their cycle: where there is time, a count is made less in the next one
        lessen = {name: Signal(name=f"lessen_{name}") for name in PIXELS} if config.overlaps else {}
        for name, now in lessen.items():
            m.d.sync += now.eq(0)
            with m.If(now):
                m.d.sync += upcoming[name].eq(upcoming[name] - tile_excess(config))
        m.d.sync += [strays.eq(0), stray.eq(stray | strays.any())]
        with m.If(valid):
            m.d.sync += strays.eq(Cat(unknown[index : index + 4].any() for index in range(0, 32, 4)))
            with m.Switch(arrived):
                for index in range(isa.DESCRIPTOR_WORDS):
                    with m.Case(index):
                        fields = [field for field in isa.DESCRIPTOR if field.word == index and config.kept_bits(field)]
                        held = field_slice if lessen else functools.partial(held_field, config)
                        m.d.sync += [upcoming[field.name].eq(held(field, self.i_word)) for field in fields]
                        m.d.sync += [lessen[field.name].eq(1) for field in fields if field.name in lessen]
        m.d.sync += whole.eq(delayed(m, valid & (arrived == isa.DESCRIPTOR_WORDS - 1), late))
        with m.If(whole):
            m.d.sync += [loading.eq(0), loaded.eq(1), sound.eq(known & ~faulty & inside)]

        for name in ("ifm_base", "weight_base", "ofm_base", "param_base"):
            ahead_of_drain = name in ("ifm_base", "weight_base") or not config.overlaps
            layer, control = self.o_front if ahead_of_drain else self.o_descriptor, getattr(self, name)
            with m.If(control.move):
                m.d.sync += layer[name].eq(control.base)

        # check: the opcode, then the counts
        read = kept_fields(m, config, upcoming)
        starts = {
            isa.Opcode.CONV: (self.o_conv, config.cols << wide_blocks(read, config)),
            isa.Opcode.DEPTHWISE: (self.o_depthwise, config.depthwise_cols),
        }
        if config.vector:
            starts[isa.Opcode.VECTOR] = self.o_vector, config.lanes
        has_unit, too_many = Signal(), Signal()
        with m.Switch(read.opcode):
            for opcode, (_, most) in starts.items():
                with m.Case(opcode):
                    m.d.comb += [has_unit.eq(1), too_many.eq(read.last_channels > most)]
        pixels = read.pixels + tile_excess(config)
        zero = [
            read[field.name] == (-tile_excess(config) if field.name in PIXELS else 0)
            for field in isa.DESCRIPTOR
            if field.nonzero
        ]
        # an inner tap must keep at least one pixel, a depthwise layer has no second operand, a strip's kernel is small,
        # a product is of two bytes
        is_depthwise, striped = read.opcode == isa.Opcode.DEPTHWISE, read.strips != 0
        unfit = (read.span > config.strip_columns) | (read.taps_y > pipeline.STRIP_STEPS - 1)
        uneven = pixels[0] | (read.row_pixels != 2 - tile_excess(config))
        several = (read.taps_x != 1) | (read.repeats != 0) | (read.short_from != 0)
        unary = (read.opcode != isa.Opcode.VECTOR) | ~read.residual | (read.reduce != isa.Reduce.MAX)
        lost = is_depthwise & (((read.short_from != 0) & (read.span == 1)) | read.residual)
        shapeless = lost | (striped & (unfit | uneven | several | ~is_depthwise)) | (read.product & unary)
        narrow = read.int4 & (not config.int4 or read.opcode == isa.Opcode.VECTOR)
        bookless = not config.codebooks or (read.opcode == isa.Opcode.VECTOR) | read.int4
        known_book = read.codebook.matches(*isa.Codebook)
        misread = ~known_book | ((read.codebook != isa.Codebook.NONE) & bookless)
        scaled = read.scaled & (not config.block_scales or read.opcode != isa.Opcode.CONV)
        packed = read.ifm_int4 | read.ofm_int4
        halves = read.int4 | (read.codebook != isa.Codebook.NONE) | read.scaled
        alone = (read.opcode != isa.Opcode.CONV) | int(not config.act_int4) | (read.ifm_int4 & halves)
        past = read.table > config.tables
        wrong = (stray | strays.any(), too_many, shapeless, narrow, misread, scaled, packed & alone, past)
        bad_field, bad_opcode, halt, may_overlap, may_be_followed = (Signal() for _ in range(5))
        go, may_begin, early = Signal(), Signal(), Signal()
        # the front layer isn't on the output path yet; the drain unit has ended; two layers are running
        ahead, drained, both = Signal(), Signal(), Signal()
        change = Signal()
        resting = Signal()  # a program runs and no layer does
        on_mesh = (isa.Opcode.CONV, isa.Opcode.DEPTHWISE)
        m.d.sync += [
            halt.eq(upcoming.opcode == isa.Opcode.HALT),
            bad_opcode.eq((upcoming.opcode != isa.Opcode.HALT) & ~known),
            bad_field.eq(known & faulty),
            may_overlap.eq(upcoming.early & upcoming.opcode.matches(*on_mesh) & int(config.overlaps)),
            may_be_followed.eq(
                self.o_descriptor.opcode.matches(*on_mesh)
                & ~(self.o_descriptor.scaled & config.block_scales)
                & ~(self.o_descriptor.residual & config.adder)
            ),
        ]
        m.d.comb += [
            known.eq(delayed(m, has_unit, late)),  # where there is time, what is found takes a cycle to be judged
            faulty.eq(delayed(m, Cat(*zero, *wrong), late).any()),
            inside.eq(next_pc < config.slots),
            go.eq(loaded & inside & resting),
            early.eq(may_begin & ~self.i_layer_done),
            change.eq(ahead & (drained | self.i_drained)),
            self.o_back_next.eq(change),
            self.o_loading.eq(resting),
        ]
        # late in its cycle; once it is so it stays so until a layer begins or the one that runs has ended
        m.d.sync += may_begin.eq(self.o_layer & ~both & ~self.i_fetching & may_overlap & may_be_followed)
        m.d.sync += [self.o_back.eq(0), *(start.eq(0) for start, _ in starts.values())]
        begin = sound & (early | resting)
        with m.If(begin):
            m.d.sync += sound.eq(0)
            m.d.sync += [starts[opcode][0].eq(upcoming.opcode == opcode) for opcode in on_mesh]
            m.d.sync += [next_pc.eq(next_pc + 1), loaded.eq(0)]
            if config.overlaps:
                kinds = (upcoming.opcode == kind for kind in (isa.Opcode.DEPTHWISE, isa.Opcode.VECTOR))
                m.d.sync += Cat(self.o_front_depthwise, self.o_front_vector).eq(Cat(kinds))
        if config.overlaps:
            with m.If(sound & (may_begin | resting)):  # when it begins, or a cycle before: nobody reads it any more
                m.d.sync += self.o_front.eq(upcoming)
        with m.If(begin if config.overlaps else self.o_retired):
            m.d.sync += [loading.eq(1), word.eq(0), stray.eq(0)]
        with m.If(self.i_drained):
            m.d.sync += drained.eq(1)
        with m.If(sound & early):
            m.d.sync += [ahead.eq(1), both.eq(1)]
        with m.If(go):
            m.d.sync += self.o_pc.eq(next_pc)
            with m.If(halt):
                m.d.sync += [self.o_busy.eq(0), resting.eq(0), self.o_done.eq(1), loaded.eq(0)]
            with m.Elif(~bad_opcode & ~bad_field):
                m.d.sync += [ahead.eq(1), drained.eq(1), self.o_layer.eq(1), resting.eq(0)]
        with m.If(change):
            m.d.sync += [self.o_back.eq(1), drained.eq(0), ahead.eq(0)]
            m.d.sync += self.o_vector.eq(self.o_front_vector)
            if config.overlaps:
                m.d.sync += [self.o_descriptor.eq(self.o_front), self.o_vector_results.eq(self.o_front_vector)]
        if not config.overlaps:
            m.d.comb += [
                self.o_descriptor.eq(self.o_front),
                self.o_front_depthwise.eq(self.o_front.opcode[:2] == isa.Opcode.DEPTHWISE),  # others were refused
                self.o_front_vector.eq((self.o_front.opcode == isa.Opcode.VECTOR) & config.vector),
                self.o_vector_results.eq(self.o_front_vector),
            ]
        m.d.comb += self.o_retired.eq(self.o_layer & self.i_layer_done)
        with m.If(self.o_retired & both):
            m.d.sync += [both.eq(0), self.o_pc.eq(self.o_pc + 1)]
        with m.Elif(self.o_retired):
            m.d.sync += [self.o_layer.eq(0), resting.eq(1)]

        with m.If(~self.o_layer | self.i_progress):
            m.d.sync += [idle_cycles.eq(0), stalled.eq(0)]
        with m.Else():
            m.d.sync += idle_cycles.eq(idle_cycles + 1)
            m.d.sync += stalled.eq((self.i_watchdog != 0) & (idle_cycles >= self.i_watchdog))

        with m.If(go & bad_opcode):
            m.d.comb += error.eq(isa.ErrorCode.ILLEGAL_OPCODE)
        with m.Elif(go & bad_field):
            m.d.comb += error.eq(isa.ErrorCode.ILLEGAL_FIELD)
        with m.Elif(resting & ~inside):
            m.d.comb += error.eq(isa.ErrorCode.PC_RANGE)
        with m.Elif(self.o_layer & self.i_act_range):
            m.d.comb += error.eq(isa.ErrorCode.ACT_RANGE)
        with m.Elif(self.o_layer & self.i_weight_range):
            m.d.comb += error.eq(isa.ErrorCode.WEIGHT_RANGE)
        with m.Elif(self.o_layer & self.i_param_range):
            m.d.comb += error.eq(isa.ErrorCode.PARAM_RANGE)
        with m.Elif(self.o_layer & stalled):
            m.d.comb += error.eq(isa.ErrorCode.WATCHDOG)
        idle_fault = loaded & inside & (bad_opcode | bad_field) | ~inside
        layer_fault = self.i_act_range | self.i_weight_range | self.i_param_range | stalled
        m.d.comb += failed.eq((self.o_layer & layer_fault) | (resting & idle_fault))
        if config.parity:
            # a descriptor that isn't as it was written is neither HALT nor a layer, whatever it seems to be
            wrong_bytes, wrong_before, spoilt, bad_word = Signal(4), Signal(), Signal(), Signal()
            m.d.comb += spoilt.eq(wrong_before | wrong_bytes.any())
            m.d.sync += [
                wrong_bytes.eq(self.i_word_wrong & valid.replicate(4)),
                wrong_before.eq(spoilt & (word != 0)),
                bad_word.eq(spoilt),
            ]
            with m.If(spoilt):
                m.d.sync += [halt.eq(0), bad_field.eq(1), sound.eq(0)]
            spoilt_layer = self.o_layer & self.i_wrong
            with m.If((go & bad_word) | spoilt_layer):
                m.d.comb += error.eq(isa.ErrorCode.MEMORY_PARITY)
            with m.If(spoilt_layer):
                m.d.comb += failed.eq(1)
            with m.If(self.i_wrong & ~self.o_busy & (self.o_error == 0)):
                m.d.sync += self.o_error.eq(isa.ErrorCode.MEMORY_PARITY)
        with m.If(failed):
            m.d.sync += [
                self.o_error.eq(error),
                self.o_busy.eq(0),
                self.o_layer.eq(0),
                resting.eq(0),
                ahead.eq(0),
                both.eq(0),
                loaded.eq(0),
                sound.eq(0),
                loading.eq(0),
            ]
        m.d.sync += self.o_abort.eq(self.i_clear | failed)

        with m.If(self.i_clear):
            m.d.sync += [
                self.o_busy.eq(0),
                self.o_done.eq(0),
                self.o_error.eq(0),
                self.o_layer.eq(0),
                resting.eq(0),
                ahead.eq(0),
                both.eq(0),
                loading.eq(0),
                loaded.eq(0),
                sound.eq(0),
            ]
        with m.Elif(self.i_start & ~self.o_busy):
            m.d.sync += [
                self.o_busy.eq(1),
                resting.eq(1),
                self.o_done.eq(0),
                self.o_error.eq(0),
                next_pc.eq(self.i_pc),
                self.o_pc.eq(self.i_pc),
                loading.eq(1),
                loaded.eq(0),
                sound.eq(0),
                word.eq(0),
                stray.eq(0),
            ]
        return m
