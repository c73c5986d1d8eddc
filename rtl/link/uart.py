"""Asynchronous serial line, 8 data bits, no parity, one stop bit, least significant bit first."""

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

MIN_DIVISOR = 4
"""Fewest clock cycles a bit: enough for the middle of a bit to be sampled."""


def _checked(divisor: int) -> int:
    if divisor < MIN_DIVISOR:
        raise ValueError(f"A serial bit must take at least {MIN_DIVISOR} clock cycles, not {divisor}")
    return divisor


class UartReceiver(wiring.Component):
    """Bytes from a line that idles high.

    A bit is sampled once, in its middle; a start bit that is high again there is noise, and a byte whose stop bit is
    low is dropped. A byte that isn't taken until the next one is complete is lost.

    Latency: 9.5 bits and 3 cycles from the start bit's edge. Throughput: a byte every 10 bits. Backpressure: none.

    Parameters
    ----------
    divisor : int
        Clock cycles a bit, at least `MIN_DIVISOR`.

    Members
    -------
    i : the line, asynchronous
    o : received bytes
    """

    def __init__(self, divisor: int):
        self._divisor = _checked(divisor)
        super().__init__({"i": In(1, init=1), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.i, line, init=1)
        timer, bits, data, busy = Signal(range(self._divisor)), Signal(range(10)), Signal(8), Signal()
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(~busy):
            m.d.sync += [timer.eq(self._divisor // 2 - 1), bits.eq(0), busy.eq(~line)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._divisor - 1), bits.eq(bits + 1)]
            with m.If(bits == 0):
                m.d.sync += busy.eq(~line)
            with m.Elif(bits == 9):
                m.d.sync += busy.eq(0)
                with m.If(line):
                    m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(data)]
            with m.Else():
                m.d.sync += data.eq(Cat(data[1:], line))
        return m


class UartTransmitter(wiring.Component):
    """Bytes onto a line that idles high.

    Latency: 1 cycle to the start bit. Throughput: a byte every 10 bits. Backpressure: `i.ready` is low while a byte
    is being sent.

    Parameters
    ----------
    divisor : int
        Clock cycles a bit, at least `MIN_DIVISOR`.

    Members
    -------
    i : bytes to send
    o : the line
    """

    def __init__(self, divisor: int):
        self._divisor = _checked(divisor)
        super().__init__({"i": In(stream.Signature(8)), "o": Out(1, init=1)})

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        timer, bits, data = Signal(range(self._divisor)), Signal(range(11)), Signal(9)
        m.d.comb += self.i.ready.eq(bits == 0)
        with m.If(self.i.ready):
            with m.If(self.i.valid):
                m.d.sync += [
                    data.eq(Cat(self.i.payload, 1)),
                    self.o.eq(0),
                    bits.eq(10),
                    timer.eq(self._divisor - 1),
                ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._divisor - 1), bits.eq(bits - 1), Cat(self.o, data).eq(Cat(data, 1))]
        return m
