"""The accelerator with a serial port in place of its bus: what a board puts on its pins."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq.config import ArrayConfig
from rtl.link.device import LinkDevice
from rtl.link.uart import UartReceiver, UartTransmitter
from rtl.top import Accelerator


class SerialCore(wiring.Component):
    """`rtl.top.Accelerator` behind `rtl.link.device.LinkDevice` behind a UART.

    Latency, throughput: those of the line; see the parts. Backpressure: none on the line, where what isn't answered
    is sent again.

    Parameters
    ----------
    config : ArrayConfig
    divisor : int
        Clock cycles a bit of the serial line.

    Members
    -------
    rx, tx : the serial line, idle high
    irq, busy, error : of the accelerator
    active : a transfer is on the bus
    """

    def __init__(self, config: ArrayConfig, divisor: int):
        self.config, self.divisor = config, divisor
        flags = dict.fromkeys(("irq", "busy", "error", "active"), Out(1))
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), **flags})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        m.submodules.device = device = LinkDevice()
        m.submodules.accelerator = accelerator = Accelerator(self.config)
        wiring.connect(m, receiver.o, device.i)
        wiring.connect(m, device.o, transmitter.i)
        wiring.connect(m, device.bus, accelerator.bus)
        m.d.comb += [
            receiver.i.eq(self.rx),
            self.tx.eq(transmitter.o),
            self.irq.eq(accelerator.irq),
            self.busy.eq(accelerator.busy),
            self.error.eq(accelerator.error),
            self.active.eq(device.bus.cyc),
        ]
        return m
