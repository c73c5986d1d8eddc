"""The accelerator: memories, mesh, output path, vector path, sequencer and host port."""

import functools
import operator

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hwq import isa, pipeline
from hwq.config import ArrayConfig
from rtl.act_ram import ActRam
from rtl.block_scales import BlockScales
from rtl.bus import BusSignature
from rtl.depthwise import Depthwise
from rtl.drain import Drain
from rtl.fetch import Fetch
from rtl.host_port import HostPort
from rtl.issue import Issue
from rtl.layouts import address_shape, below, kept_fields
from rtl.lookahead import Lookahead
from rtl.mesh import Mesh
from rtl.paired import WeightUnpack
from rtl.parity import PARITY_BYTE, checked, stored
from rtl.pipeline import delayed, recalled
from rtl.post import Post
from rtl.readout import Readout, ShiftReadout
from rtl.row_buffers import RowBuffers
from rtl.sequencer import Sequencer
from rtl.serializer import Serializer
from rtl.shared_act_ram import SharedActRam
from rtl.small_mesh import SmallMesh
from rtl.small_output import SmallOutput
from rtl.strips import Strips
from rtl.taps import TapWalker
from rtl.unordered import UNORDERED
from rtl.vector import Vector
from rtl.walker import PixelWalker
from rtl.window_ram import WindowRam
from rtl.write_queue import WriteQueue


class Accelerator(wiring.Component):
    """A core of `config.rows` by `config.cols` multiply-accumulators, run over a 32-bit bus.

    Members
    -------
    bus : the host; see `hwq.isa` for the memory map
    irq : the program has stopped, done or with an error
    busy, error : a program runs, has stopped with an error
    """

    bus: In(BusSignature())
    irq: Out(1)
    busy: Out(1)
    error: Out(1)

    def __init__(self, config: ArrayConfig):
        self.config = config
        super().__init__()

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        config = self.config
        rows, lanes = config.rows, config.lanes

        m.submodules.host = host = HostPort(config)
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.submodules.act = act = SharedActRam(config) if config.one_port else ActRam(config)
        m.submodules.weights = weights = WindowRam(
            word_bytes=config.cols,
            depth=config.weight_words,
            one_port=config.one_port,
            spread=0 if config.one_port else 3,
            parity=bool(config.parity),
        )
        assert weights.window_latency <= pipeline.read_latency(config)
        if config.small:
            m.submodules.output = output = SmallOutput(config)
            drain, params, queue = output, output.params, output.words
            ofm, ofm_base, param_base = queue.ofm, queue.ofm_base, output.drain.param_base
        else:
            m.submodules.params = params = WindowRam(
                word_bytes=8 * lanes,
                depth=config.param_words,
                spread=pipeline.read_out(config) - pipeline.joining(config) - 1,
                parity=bool(config.parity),
            )
            assert params.latency + pipeline.joining(config) == pipeline.read_out(config)
            assert params.window_latency <= pipeline.read_latency(config)
            m.submodules.drain = drain = Drain(config)
            m.submodules.post = post = Post(config)
            ofm, ofm_base, param_base = drain.ofm, drain.ofm_base, drain.param_base
            if config.one_port:
                m.submodules.queue = queue = WriteQueue(config)
        descriptor, front = (kept_fields(m, config, layer) for layer in (sequencer.o_descriptor, sequencer.o_front))
        use_strips = delayed(m, front.strips != 0, 1, alone=True)  # no step comes with the start
        m.submodules.fetch = fetch = Fetch(config)
        m.submodules.depthwise = depthwise = Depthwise(config)
        m.submodules.issue = issue = Issue(config)
        if config.small:
            mesh = SmallMesh(rows=rows, cols=config.cols, sum_bits=config.sum_bits)
            m.d.comb += mesh.i_clear.eq(sequencer.o_conv | sequencer.o_depthwise)
        else:
            mesh = Mesh(
                rows=rows,
                cols=config.cols,
                strips=bool(config.strip_columns),
                int4=config.int4,
                act_int4=config.act_int4,
                shift=config.one_port,
                aligned=config.one_port,
                bank=config.lanes if config.lanes > 1 else None,
                sum_bits=config.sum_bits,
            )
        m.submodules.mesh = mesh
        vector = Vector(config) if config.vector else None
        wiring.connect(m, wiring.flipped(self.bus), host.bus)

        # host: memories and status
        read, write, offset = host.o_read, host.o_write, host.o_offset
        window, readable = offset[2:], read if config.monitor else Const(0, len(read))
        program = Memory(
            shape=4 * PARITY_BYTE if config.parity else 32,
            depth=config.slots * isa.SLOT_WORDS,
            init=[],
            attrs=UNORDERED,
        )
        m.submodules.program = program
        program_read, program_write = program.read_port(), program.write_port()
        program_word, program_wrong = checked(program_read.data) if config.parity else (program_read.data, None)
        m.d.comb += [
            program_read.addr.eq(Mux(readable[isa.Region.PROGRAM], window, sequencer.o_address)),
            program_write.addr.eq(window),
            program_write.data.eq(stored(host.o_data) if config.parity else host.o_data),
            program_write.en.eq(write[isa.Region.PROGRAM] & below(window, config.slots * isa.SLOT_WORDS)),
            sequencer.i_word.eq(delayed(m, program_word, int(config.overlaps))),
            host.i_program.eq(program_word),
            host.i_param.eq(params.o_window),
            host.i_weight.eq(weights.o_window),
            host.i_act.eq(act.o_data.as_value()[:32]),
            host.i_busy.eq(sequencer.o_busy),
            host.i_done.eq(sequencer.o_done),
            host.i_error.eq(sequencer.o_error),
            host.i_pc.eq(sequencer.o_pc),
            sequencer.i_start.eq(host.o_start),
            sequencer.i_clear.eq(host.o_clear),
            sequencer.i_pc.eq(host.o_pc),
            sequencer.i_watchdog.eq(host.o_watchdog),
            self.busy.eq(sequencer.o_busy),
            self.error.eq(sequencer.o_error != 0),
            self.irq.eq((sequencer.o_done | self.error) & ~host.o_start),
        ]
        way = pipeline.way(config)
        windows = [(params, isa.Region.PARAM), (weights, isa.Region.WEIGHT)]
        if not config.small:
            m.d.comb += host.i_table.eq(post.o_window)
            windows.append((post, isa.Region.TABLE))
        for ram, region in windows:
            asked = {"read": readable[region], "write": write[region]}
            asked |= {"address": window, "mask": host.o_mask, "data": host.o_data}
            for name, value in asked.items():
                m.d.comb += getattr(ram, f"i_window_{name}").eq(delayed(m, value, way))

        # units: start, addresses
        abort = sequencer.o_abort
        m.d.comb += [
            fetch.i_start.eq(sequencer.o_conv),
            issue.i_start.eq(sequencer.o_conv | sequencer.o_depthwise),
            drain.i_start.eq(sequencer.o_back),
            sequencer.i_fetching.eq(fetch.o_running | issue.o_running | sequencer.o_conv | sequencer.o_depthwise),
        ]
        if not config.small:
            m.d.comb += [
                drain.i_starting.eq(sequencer.o_back_next),
                sequencer.i_drained.eq(drain.o_ended),
                fetch.i_residual_done.eq(drain.o_residual_done),
                post.i_start.eq(delayed(m, sequencer.o_back, pipeline.read_out(config) - 1)),
                post.i_descriptor.eq(descriptor),
                post.i_clear.eq(abort),
            ]
        vectors = []
        if vector is not None:
            m.submodules.vector = vector
            m.d.comb += vector.i_start.eq(sequencer.o_vector)
            vectors = [vector]
        for unit in (fetch, issue, drain, *vectors):
            behind = unit is drain or unit in vectors
            m.d.comb += [unit.i_descriptor.eq(descriptor if behind else front), unit.i_clear.eq(abort)]
        m.submodules.lookahead = lookahead = Lookahead(config)
        m.d.comb += [lookahead.i_start.eq(sequencer.o_depthwise), lookahead.i_clear.eq(abort)]
        wiring.connect(m, lookahead.steps, issue.depthwise)
        wiring.connect(m, depthwise.steps, lookahead.source)
        sources = [depthwise]
        if config.strip_columns:
            m.submodules.strips = strips = Strips(config)
            wiring.connect(m, strips.steps, lookahead.strips)
            m.d.comb += lookahead.i_strips.eq(front.strips != 0)
            sources.append(strips)
        for unit in sources:
            m.d.comb += [unit.i_descriptor.eq(front), unit.i_start.eq(sequencer.o_depthwise)]
        use_vector, use_depthwise = sequencer.o_vector_results, sequencer.o_front_depthwise
        use_dots, drain_dots = (d.ifm_int4 & int(config.act_int4) for d in (front, descriptor))
        wiring.connect(m, depthwise.base, sequencer.ifm_base)
        wiring.connect(m, issue.base, sequencer.weight_base)
        wiring.connect(m, ofm_base, sequencer.ofm_base)
        wiring.connect(m, param_base, sequencer.param_base)
        m.submodules.taps = taps = TapWalker(config)
        m.d.comb += [
            taps.i_x_step.eq(front.tap_x_step),
            taps.i_y_step.eq(front.tap_y_step),
            taps.i_taps_x.eq(front.taps_x),
            taps.i_taps_y.eq(front.taps_y),
        ]
        _share(m, taps.control, {depthwise.taps: use_depthwise, fetch.taps: 1})
        for name in ("ifm", "res", "ofm"):
            walker = PixelWalker(config)
            m.submodules[f"walk_{name}"] = walker
            walked, by_vector = descriptor, use_vector
            if name != "ofm":
                walked, by_vector = front, sequencer.o_front_vector
            m.d.comb += [
                walker.i_x_step.eq(walked[f"{name}_x_step"]),
                walker.i_y_step.eq(walked[f"{name}_y_step"]),
                walker.i_row_pixels.eq(walked.row_pixels),
                walker.i_pixels.eq(walked.pixels),
            ]
            users = dict.fromkeys(vectors, by_vector)
            users |= {depthwise: use_depthwise, fetch: 1}
            users = {getattr(unit, name): chosen for unit, chosen in users.items() if hasattr(unit, name)}
            users |= {ofm: 1} if name == "ofm" else {}
            _share(m, walker.control, users)

        # activation memory: reads by fetch, vector or host, writes by the output path or the host
        layer_end = Signal()
        m.d.comb += [act.i_address.eq(offset), act.i_count.eq(4)]
        if config.one_port:
            midway = fetch.o_midway | lookahead.steps.midway | _any(unit.o_midway for unit in vectors)
            m.d.comb += [
                queue.i_take.eq(queue.o_valid & ~midway),
                *(unit.i_blocked.eq(queue.o_valid) for unit in (fetch, issue, *vectors)),
                act.i_write.eq(queue.i_take | (write[isa.Region.ACT] & ~offset[config.address_bits :].any())),
                act.i_write_data.as_value().eq(Mux(queue.i_take, queue.o_data.as_value(), host.o_data)),
                act.i_write_mask.eq(Mux(queue.i_take, queue.o_mask, host.o_mask)),
                act.i_odd.eq(queue.i_take & queue.o_odd),
                layer_end.eq(queue.i_take & queue.o_final),
            ]
            if not config.small:
                m.d.comb += [
                    queue.i_clear.eq(abort),
                    queue.i_write.eq(post.o_write),
                    queue.i_address.eq(post.o_address),
                    queue.i_data.eq(post.o_data.as_value()),
                    queue.i_end.eq(post.o_end),
                    queue.i_final.eq(post.o_final),
                ]
        else:
            # a word that the host writes is there when it reads it next: no register but the memory's own
            host_write = write[isa.Region.ACT] & ~offset[config.address_bits :].any()
            m.d.comb += [
                act.i_write.eq(post.o_write | host_write),
                act.i_write_address.eq(Mux(post.o_write, post.o_address, offset[: config.address_bits])),
                act.i_write_data.as_value().eq(Mux(post.o_write, post.o_data.as_value(), host.o_data)),
                act.i_write_count.eq(Mux(post.o_write, post.o_count, 4)),
                act.i_write_mask.eq(Mux(post.o_write, (1 << post.o_count) - 1, host.o_mask)),
                layer_end.eq(post.o_final),
            ]

        ahead = lookahead.steps
        requests = [
            *((unit.o_running, unit.o_read, unit.o_address, unit.o_count) for unit in vectors),
            (fetch.o_running, fetch.o_read, fetch.o_address, fetch.o_count),
            (issue.o_running & use_depthwise, ahead.step & ahead.read, ahead.address, ahead.count),
        ]
        host_reads = [read[isa.Region.ACT]] if config.parity else []
        m.d.comb += act.i_read.eq(_any([*(read_now for _, read_now, _, _ in requests), *host_reads]))
        for running, _, address, count in requests:  # one at a time, and only then
            with m.If(running):
                m.d.comb += [act.i_address.eq(address), act.i_count.eq(count)]
        if config.one_port:
            with m.If(queue.i_take):
                m.d.comb += act.i_address.eq(queue.o_address)

        # fetched bytes: to a row's serializer or to the buffer of second operands
        part = data.StructLayout(
            {
                "read": 1,
                "row": range(rows),
                "residual": 1,
                "end": 1,
                "slot": ceil_log2(pipeline.RESIDUAL_BUFFERS) + ceil_log2(config.residual_passes) + ceil_log2(rows),
            }
        )
        slot_bits = (ceil_log2(rows), ceil_log2(config.residual_passes), ceil_log2(pipeline.RESIDUAL_BUFFERS))
        coming = Signal(part)
        m.d.comb += [
            coming.read.eq(fetch.o_read),
            coming.row.eq(fetch.o_row),
            coming.residual.eq(fetch.o_residual),
            coming.end.eq(fetch.o_residual_end),
            coming.slot.eq(
                Cat(fetch.o_row[: slot_bits[0]], fetch.o_slice[: slot_bits[1]], fetch.o_buffer[: slot_bits[2]])
            ),
        ]
        for stage in range(pipeline.read_latency(config)):
            before = coming
            later = Signal(part, name=f"coming_{stage}")
            m.d.sync += later.eq(coming)
            with m.If(abort):
                m.d.sync += [later.read.eq(0), later.end.eq(0)]
            coming = later
        m.submodules.second = second = Memory(
            shape=8 * config.fetch_bytes,
            depth=1 << sum(slot_bits),
            init=[],
            attrs={} if config.block_scales else UNORDERED,  # with scales the last read may meet the next write
        )
        second_write, second_read = second.write_port(), second.read_port()
        m.d.comb += [
            second_write.addr.eq(coming.slot),
            second_write.data.eq(act.o_data.as_value()),
            second_write.en.eq(coming.read & coming.residual),
            issue.i_residual_ready.eq(coming.end),
        ]

        # mesh: row p's serializer steps p cycles after row 0's, weights meet row 0 on the edge
        parting = pipeline.part_latency(config) - 1
        launches, free = Signal(parting), issue.o_free
        if parting:
            assert parting == 1
            m.d.sync += launches.eq(fetch.o_launch & ~abort)
            free = issue.o_free & ~fetch.o_launch & ~launches
        m.d.comb += [
            fetch.i_free.eq(free),
            issue.i_launch.eq(launches if parting else fetch.o_launch),
            issue.i_part.eq(delayed(m, fetch.o_part, parting)),
        ]
        # an abort comes as late: the units have stopped by then
        abort_n, word = ~delayed(m, abort, way), delayed(m, act.o_data.as_value(), way)
        steps = [issue.o_step & ~use_depthwise, issue.o_take]
        step, take = (delayed(m, signal & abort_n, pipeline.issue_to_edge(config) - 2 - way) for signal in steps)
        if config.one_port and rows > 1:
            m.submodules.buffers = buffers = RowBuffers(rows=rows)
            m.d.comb += [
                buffers.i_start.eq(sequencer.o_conv),
                buffers.i_write.eq(coming.read & ~coming.residual),
                buffers.i_row.eq(coming.row),
                buffers.i_data.eq(act.o_data.as_value()),
                buffers.i_step.eq(step & abort_n),
                buffers.i_take.eq(take),
                *(mesh.i_a[row].eq(buffers.o[row]) for row in range(rows)),
            ]
        else:
            source, writes = coming if way else before, Signal(rows)
            m.d.sync += writes.eq((source.read & ~source.residual & abort_n) << source.row)
            self._serialize(m, mesh, word, abort_n, step, take, writes)
        taken = {"valid": issue.o_step & abort_n, "last": issue.o_last, "broadcast": use_depthwise}
        if not config.small:
            taken |= {"first": issue.o_first, "strips": use_strips}
        control = delayed(m, Cat(taken.values()), pipeline.issue_to_edge(config))
        until_edge = pipeline.issue_to_edge(config) - pipeline.read_latency(config) - way
        column_bytes = delayed(
            m, word, until_edge, alone=not config.one_port
        )  # not the vector unit's, which lies apart
        pairs = issue.o_pairs | use_dots
        unpacks = config.int4 or config.codebooks
        until_word = pipeline.issue_to_edge(config) - (WeightUnpack.LATENCY if unpacks else 1)
        ahead = until_word - weights.latency - way
        form = delayed(m, Cat(issue.o_zero, pairs, issue.o_steps, issue.o_odd), until_word)
        lag = pipeline.weight_lag(config)
        m.d.comb += weights.i_address.eq((recalled if config.small else delayed)(m, issue.o_weight, ahead - lag))
        weight_bytes = delayed(m, weights.o_word, way)
        if unpacks:
            m.submodules.unpack = unpack = WeightUnpack(cols=config.cols, codebook=bool(config.codebooks))
            m.d.comb += [
                unpack.i_word.eq(weight_bytes),
                Cat(unpack.i_zero, unpack.i_pairs, unpack.i_steps, unpack.i_odd).eq(form),
                *(mesh.i_w[c].eq(unpack.o[c]) for c in range(config.cols)),
                Cat(mesh.i_pairs, mesh.i_dots).eq(delayed(m, Cat(pairs, use_dots), pipeline.issue_to_edge(config))),
            ]
            if config.codebooks:
                book = Cat(issue.o_indices, issue.o_book, issue.o_entry, issue.o_column)
                book = delayed(m, book, until_word)
                m.d.comb += Cat(unpack.i_indices, unpack.i_load, unpack.i_entry, unpack.i_column).eq(book)
        else:
            weight_word = Signal(8 * config.cols, reset_less=True)
            m.d.sync += weight_word.eq(Mux(form[0], 0, weight_bytes))
            m.d.comb += mesh.i_w.as_value().eq(weight_word)
        m.d.comb += [
            mesh.i_column.as_value().eq(column_bytes),
            *(getattr(mesh, f"i_{name}").eq(bit) for name, bit in zip(taken, control, strict=True)),
        ]

        # output path: one result from the mesh or the vector unit
        if config.small:
            m.d.comb += [
                output.drain.i_last.eq(issue.o_last),
                output.drain.i_pixels.eq(issue.o_pixels),
                output.drain.i_block_end.eq(issue.o_block_end),
                output.drain.i_last_block.eq(issue.o_last_block),
                output.drain.i_due.eq(mesh.o_due & sequencer.o_layer),
                output.i_shadow.eq(mesh.o_shadow),
                mesh.i_shift.eq(output.o_shift),
            ]
        else:
            m.d.comb += [drain.i_last.eq(issue.o_last), drain.i_strips.eq(use_strips)]
            group_lanes = config.fetch_bytes // lanes
            picked = Signal(data.ArrayLayout(signed(32), lanes))
            group_in_slice = Signal(range(max(2, group_lanes)))
            place = Signal(data.StructLayout({"address": address_shape(config), "count": range(lanes + 1), "end": 1}))
            picked_valid, picked_final = Signal(), Signal()
            accs = picked
            joining = pipeline.joining(config)
            more = pipeline.read_out(config) - joining - 2  # cycles of a read besides the first and the last
            param = drain.o_param
            reads = {
                "read": drain.o_read,
                "first": drain.o_first,
                "sum_end": drain.o_sum_end & descriptor.scaled,
                "columns": drain.o_columns,
                "scaled": descriptor.scaled,
            }
            result_layout = data.StructLayout(
                {
                    "valid": 1,
                    "final": 1,
                    "row": range(rows),
                    "group": drain.o_group.shape(),
                    "address": address_shape(config),
                    "count": range(lanes + 1),
                    "row_end": 1,
                    "buffer": drain.o_buffer.shape(),
                }
            )
            result = Signal(result_layout)
            m.d.sync += [
                result.valid.eq(drain.o_read & drain.o_valid & drain.o_last & ~abort),
                result.final.eq(drain.o_read & drain.o_final & ~abort),
                *(result[name].eq(getattr(drain, f"o_{name}")) for name in list(result_layout.members)[2:]),
            ]
            result = _unless(m, abort, result, more)
            if config.block_scales:
                m.submodules.scales = scales = BlockScales(config)
                assert scales.LATENCY == pipeline.SCALE_LATENCY
                assert pipeline.read_out(config) + scales.LATENCY <= pipeline.read_latency(config) + 2, (
                    "second operands are kept so long"
                )
                reads = {name: delayed(m, value, 1 + more) for name, value in reads.items()}
                m.d.comb += [
                    scales.i_start.eq(sequencer.o_conv),
                    scales.i_write.eq(delayed(m, issue.o_scale, until_word)),
                    scales.i_word.eq(weight_bytes),
                    scales.i_read.eq(reads["read"]),
                    scales.i_row.eq(result.row),
                    scales.i_columns.eq(reads["columns"]),
                    scales.i_first.eq(reads["first"]),
                    scales.i_end.eq(reads["sum_end"]),
                    scales.i_sum.eq(picked),
                ]
                # places travel along; what a layer without scales ahead of this one has left on the way is gone already
                use_scales = reads["scaled"]
                late_param = delayed(m, drain.o_param, scales.LATENCY)
                param = Mux(use_scales, late_param, param)
                late = _unless(m, abort | ~use_scales, result, scales.LATENCY)
                chosen_result = Signal(result_layout)
                m.d.comb += chosen_result.eq(Mux(use_scales, late.as_value(), result.as_value()))
                result, accs = chosen_result, Signal.like(picked)
                m.d.comb += accs.eq(Mux(delayed(m, use_scales, 1), scales.o.as_value(), picked.as_value()))
            m.submodules.readout = readout = (ShiftReadout if config.one_port else Readout)(config)
            m.d.comb += readout.i_shadow.eq(mesh.o_shadow)
            m.d.comb += [picked[lane].eq(readout.o[lane]) for lane in range(lanes)]
            if config.one_port:
                m.d.comb += [
                    readout.i_read.eq(drain.o_read),
                    readout.i_column.eq(drain.o_columns),
                    mesh.i_shift.eq(readout.o_shift),
                ]
            else:
                m.d.comb += [
                    readout.i_selected.eq(drain.o_selected),
                    readout.i_pairs.eq(drain.o_pairs | drain_dots),
                    readout.i_high.eq(drain.o_high | drain_dots),
                ]
            m.d.sync += [
                picked_valid.eq(result.valid & ~abort),
                picked_final.eq(result.final & ~abort),
                place.address.eq(result.address),
                place.count.eq(result.count),
                place.end.eq(result.row_end),
                group_in_slice.eq(result.group),
            ]
            second_bytes = second_read.data.word_select(group_in_slice[: ceil_log2(group_lanes)], 8 * lanes)
            m.d.comb += [
                second_read.addr.eq(
                    Cat(
                        result.row[: slot_bits[0]],
                        (result.group >> ceil_log2(group_lanes))[: slot_bits[1]],
                        result.buffer[: slot_bits[2]],
                    )
                ),
            ]
            entering = (picked_valid, picked_final, accs, second_bytes, place.address, place.count)
            if vector is not None:
                m.d.comb += vector.i_data.as_value().eq(act.o_data.as_value()[: 8 * lanes])
                param = Mux(use_vector, vector.o_param, param)
                offered = (vector.o_valid, vector.o_final, vector.o_acc, vector.o_residual)
                offered = (*offered, vector.o_write_address, vector.o_write_count)
                pairs_of = zip(offered, entering, strict=True)
                entering = [Mux(use_vector, Value.cast(own), Value.cast(other)) for own, other in pairs_of]
            valid, final, *entering = entering
            entering = [valid & ~abort, final & ~abort, *entering] if joining else [valid, final, *entering]
            param, row_end, *entering = (delayed(m, value, joining) for value in (param, place.end, *entering))
            entered = (post.i_valid, post.i_final, post.i_acc, post.i_residual, post.i_address, post.i_count)
            m.d.comb += [Value.cast(port).eq(Value.cast(value)) for port, value in zip(entered, entering, strict=True)]
            m.d.comb += [params.i_address.eq(param), post.i_end.eq(use_vector | row_end)]
            param_word = params.o_word
            for lane in range(lanes):
                for field in isa.PARAM:
                    start = 64 * lane + 32 * field.word + field.lsb
                    bits = param_word[start : start + field.width]
                    m.d.comb += post.i_param[lane][field.name].eq(bits)

        # end of a layer, errors, counters
        ended = Signal(pipeline.write_latency(config))
        m.d.sync += ended.eq(Mux(abort, 0, (ended << 1) | layer_end))
        weight_past, param_past, progress = Signal(), Signal(), Signal()
        weight_read = issue.o_book | issue.o_scale | (issue.o_step & ~issue.o_zero)
        m.d.sync += [
            weight_past.eq(delayed(m, weight_read, lag) & ~below(issue.o_weight, config.weight_words)),
            param_past.eq(
                (output.o_param_range if config.small else drain.o_read & (drain.o_param >= config.param_words))
                | _any(unit.o_emit & (unit.o_param >= config.param_words) for unit in vectors)
            ),
        ]
        m.d.comb += [
            sequencer.i_layer_done.eq(ended[-1]),
            sequencer.i_act_range.eq(act.o_range),
            sequencer.i_weight_range.eq(weight_past),
            sequencer.i_param_range.eq(param_past),
            sequencer.i_progress.eq(progress),
        ]
        m.d.sync += progress.eq(
            issue.o_step
            | issue.o_book
            | fetch.o_read
            | drain.o_read
            | act.i_write
            | _any(unit.o_running for unit in vectors)
        )
        if config.parity:
            in_program = readable[isa.Region.PROGRAM] & below(window, config.slots * isa.SLOT_WORDS)
            weight_used = delayed(m, weight_read, ahead) | weights.i_window_read
            param_used = post.i_valid | delayed(m, params.i_window_read, params.latency)
            found = [
                act.o_wrong,
                weights.o_wrong & delayed(m, weight_used, weights.latency + 2),
                params.o_wrong & delayed(m, param_used, 2),
                delayed(m, program_wrong, 1).any() & delayed(m, in_program, 2),
            ]
            m.d.comb += [
                sequencer.i_word_wrong.eq(delayed(m, program_wrong, int(config.overlaps))),
                sequencer.i_wrong.eq(delayed(m, _any(found), 1)),
            ]
        m.d.comb += host.i_count[0].eq(sequencer.o_busy)
        if config.monitor:
            self._monitor(m, host, sequencer, issue, _any(unit.o_running for unit in vectors))
        return m

    def _serialize(self, m, mesh, word, abort_n, step, take, writes):
        """Give every row a serializer, which steps a cycle after the one before it, and takes from `word`."""
        for row, write in enumerate(writes):
            m.submodules[f"serializer_{row}"] = serializer = Serializer(fetch_bytes=self.config.fetch_bytes)
            row_step, row_take = Signal(name=f"step_{row}"), Signal(name=f"take_{row}")
            m.d.sync += [row_step.eq(step & abort_n), row_take.eq(take)]
            step, take = row_step, row_take
            m.d.comb += [
                serializer.i_write.eq(write),
                serializer.i_data.eq(word),
                serializer.i_step.eq(step),
                serializer.i_take.eq(take),
                mesh.i_a[row].eq(delayed(m, serializer.o, pipeline.way(self.config))),
            ]

    def _monitor(self, m, host, sequencer, issue, vector_running):
        """Count the cycles of every slot and of every cause."""
        m.submodules.profile = profile = Memory(shape=32, depth=self.config.slots, init=[], attrs=UNORDERED)
        read, write = profile.read_port(), profile.write_port()
        layer_cycles = Signal(32)
        m.d.comb += [
            read.addr.eq(host.o_offset[2:]),
            host.i_profile.eq(read.data),
            write.addr.eq(sequencer.o_pc),
            write.data.eq(layer_cycles + 1),
            write.en.eq(sequencer.o_retired),
        ]
        m.d.sync += layer_cycles.eq(Mux(sequencer.o_busy & ~sequencer.o_retired, layer_cycles + 1, 0))
        counts = {name: Signal(name=f"count_{name}") for name in self.config.counters[1:]}
        m.d.comb += host.i_count[1:].eq(Cat(*counts.values()))
        with m.If(sequencer.o_loading):
            m.d.comb += counts["cycles_setup"].eq(1)
        with m.Elif(issue.o_step):
            m.d.comb += counts["cycles_mesh"].eq(1)
        with m.Elif(issue.o_wait_output):
            m.d.comb += counts["cycles_output"].eq(1)
        with m.Elif(issue.o_running):
            m.d.comb += counts["cycles_fetch"].eq(1)
        with m.Elif(vector_running):
            m.d.comb += counts["cycles_vector"].eq(1)
        with m.Elif(sequencer.o_layer):
            m.d.comb += counts["cycles_tail"].eq(1)


def _share(m, control, users):
    """Connect `control` to its users, of which those at rest ask for nothing.

    What comes with a request is that of the first of `users`, a mapping of interfaces to conditions, whose condition
    holds.
    """
    for member, flow in control.signature.members.items():
        port = getattr(control, member)
        if flow.flow is Out:
            m.d.comb += [getattr(user, member).eq(port) for user in users]
        elif len(port) == 1:
            m.d.comb += port.eq(_any(getattr(user, member) for user in users))
        else:
            chosen = 0
            for user, selected in reversed(users.items()):
                chosen = Mux(selected, getattr(user, member), chosen)
            m.d.comb += port.eq(chosen)


def _unless(m, gone, result, cycles: int):
    """Return `result` as it was `cycles` ago, neither valid nor final if `gone` came since."""
    for _ in range(cycles):
        later = Signal.like(result, name="later_result")
        m.d.sync += later.eq(result)
        with m.If(gone):
            m.d.sync += [later.valid.eq(0), later.final.eq(0)]
        result = later
    return result


def _any(conditions):
    """Return the disjunction of `conditions`."""
    return functools.reduce(operator.or_, conditions, Const(0))
