"""The smallest core a board can carry: the serial link, with a memory in place of the accelerator."""

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from rtl.link.device import LinkDevice
from rtl.link.uart import UartReceiver, UartTransmitter


class LinkMemory(wiring.Component):
    """Words behind a serial line; `busy` while one is moved, `error` never."""

    def __init__(self, divisor: int, words: int = 256):
        self._divisor, self._words = divisor, words
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "busy": Out(1), "error": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self._divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self._divisor)
        m.submodules.device = device = LinkDevice()
        m.submodules.memory = memory = Memory(shape=32, depth=self._words, init=[])
        wiring.connect(m, receiver.o, device.i)
        wiring.connect(m, device.o, transmitter.i)
        write, read, bus = memory.write_port(), memory.read_port(), device.bus
        accept, ack = Signal(), Signal()
        m.d.sync += ack.eq(accept)
        m.d.comb += [
            accept.eq(bus.cyc & bus.stb & ~ack),
            bus.ack.eq(ack),
            bus.dat_r.eq(read.data),
            read.addr.eq(bus.adr),
            write.addr.eq(bus.adr),
            write.data.eq(bus.dat_w),
            write.en.eq(accept & bus.we),
            receiver.i.eq(self.rx),
            self.tx.eq(transmitter.o),
            self.busy.eq(bus.cyc),
        ]
        return m
