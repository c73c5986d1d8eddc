"""Host port: the 32-bit bus's registers, counters and windows onto the memories."""

import functools
import operator

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq import isa, pipeline
from hwq.config import ArrayConfig
from rtl.bus import BusSignature
from rtl.pipeline import delayed


class HostPort(wiring.Component):
    """Decode the bus. Windows onto memories answer while the core is idle; otherwise they read 0 and drop writes.

    Without `config.monitor` memories but activation memory read 0, and so do the registers that aren't there.

    Latency: a write is acknowledged one cycle after its request, a read `bus_read` - 1 cycles after. Throughput:
    one transfer at a time. Backpressure: `ack`.

    Members
    -------
    bus : the host
    o_offset : byte offset in the window of the transfer
    o_read, o_write : regions being read, written (one bit each), from a cycle after the request on
    o_data, o_mask : data and byte enables of the write
    i_program, i_param, i_weight, i_profile, i_table, i_act : the memories' words, at most `read_latency` + `way` cycles
        after the address
    o_start, o_clear, o_pc, o_watchdog : control
    i_busy, i_done, i_error, i_pc : status
    i_count : one bit for each of `config.counters`, the cycle counts there
    """

    def __init__(self, config: ArrayConfig):
        self._digest = int(config.digest()[:8], 16)
        self._wait = pipeline.bus_read(config) - 2
        self._way = pipeline.way(config)
        self._counters, self._monitor = config.counters, bool(config.monitor)
        regions = len(isa.Region)
        super().__init__(
            {
                "bus": In(BusSignature()),
                "o_offset": Out(isa.REGION_SHIFT),
                "o_read": Out(regions),
                "o_write": Out(regions),
                "o_data": Out(32),
                "o_mask": Out(4),
                "i_program": In(32),
                "i_param": In(32),
                "i_weight": In(32),
                "i_profile": In(32),
                "i_table": In(32),
                "i_act": In(32),
                "o_start": Out(1),
                "o_clear": Out(1),
                "o_pc": Out(range(2 * config.slots)),
                "o_watchdog": Out(32),
                "i_busy": In(1),
                "i_done": In(1),
                "i_error": In(8),
                "i_pc": In(16),
                "i_count": In(len(config.counters)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        bus = self.bus
        request, waited = Signal(), Signal(range(self._wait + 1))
        region = bus.adr[isa.REGION_SHIFT - 2 :]
        m.d.comb += [
            request.eq(bus.cyc & bus.stb & ~bus.ack),
            # what a transfer begins with it keeps for two cycles
            self.o_offset.eq(delayed(m, bus.adr[: isa.REGION_SHIFT - 2], self._way) << 2),
            self.o_data.eq(delayed(m, bus.dat_w, self._way)),
            self.o_mask.eq(delayed(m, bus.sel, self._way)),
        ]
        m.d.sync += bus.ack.eq(0)
        with m.If(request):
            with m.If(bus.we | (waited == self._wait)):
                m.d.sync += [bus.ack.eq(1), waited.eq(0)]
            with m.Else():
                m.d.sync += waited.eq(waited + 1)
        # address and data stay until the transfer has been acknowledged
        m.d.sync += [self.o_write.eq(0), self.o_read.eq(0)]
        with m.If(request & ~self.i_busy & (region < len(isa.Region))):
            with m.If(bus.we):
                m.d.sync += self.o_write.bit_select(region, 1).eq(1)
            with m.Else():
                m.d.sync += self.o_read.bit_select(region, 1).eq(1)

        index = isa.REGISTER_INDEX
        register, is_csr = bus.adr[:8], region == isa.Region.CSR
        write_csr = request & bus.we & is_csr
        control = write_csr & (register == index["control"])
        m.d.sync += [
            self.o_start.eq(control & (bus.dat_w & isa.CONTROL_START).any()),
            self.o_clear.eq(control & (bus.dat_w & isa.CONTROL_CLEAR).any()),
        ]
        with m.If(write_csr & (register == index["pc"])):
            m.d.sync += self.o_pc.eq(bus.dat_w)
        if self._monitor:
            with m.If(write_csr & (register == index["watchdog"])):
                m.d.sync += self.o_watchdog.eq(bus.dat_w)

        status = (
            Mux(self.i_busy, isa.STATUS_BUSY, 0)
            | Mux(self.i_done, isa.STATUS_DONE, 0)
            | (self.i_error << isa.STATUS_ERROR_SHIFT)
        )
        values = {
            "id": isa.ID_VALUE,
            "digest": self._digest,
            "status": status,
            "pc": self.i_pc,
            "watchdog": self.o_watchdog,
        }
        for position, name in enumerate(self._counters):
            values[name] = count = Signal(32, name=name)
            with m.If(self.o_start & ~self.i_busy):
                m.d.sync += count.eq(0)
            with m.Elif(self.i_count[position]):
                m.d.sync += count.eq(count + 1)

        chosen = {name: delayed(m, register == index[name], 1) for name in values}
        csr = functools.reduce(operator.or_, (Mux(chosen[name], value, 0) for name, value in values.items()))[:32]
        words, answers = {isa.Region.CSR: csr, isa.Region.ACT: self.i_act}, []
        if self._monitor:
            words |= {
                isa.Region.PROGRAM: self.i_program,
                isa.Region.PARAM: self.i_param,
                isa.Region.WEIGHT: self.i_weight,
                isa.Region.PROFILE: self.i_profile,
                isa.Region.TABLE: self.i_table,
            }
            # a memory's word is late in its cycle, and comes from afar
            words = {case: delayed(m, word, 1) for case, word in words.items()}
        for case, word in words.items():  # the region has come long before the word
            shown = delayed(m, (region == case) & (~self.i_busy if case is not isa.Region.CSR else 1), 1)
            answers.append(Mux(shown, word, 0))
        m.d.sync += bus.dat_r.eq(functools.reduce(operator.or_, answers))
        return m
