"""One mesh row's activations: from `fetch_bytes` at a time to one byte a cycle."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Serializer(wiring.Component):
    """Double buffer of `fetch_bytes`: one part is shifted out while the other is filled.

    A step with `i_take` outputs the first byte of the waiting part and moves the rest to the shift register; a step
    without it outputs the shift register's next byte. The issuer guarantees that a part is waiting when it is taken
    and free when `i_write` comes, so nothing pushes back.

    Latency: 1, the byte of a step is on `o` in the next cycle. Throughput: one byte a cycle.

    Members
    -------
    i_write : store `i_data` in the waiting part
    i_data : `fetch_bytes` bytes, first one lowest
    i_step : output the next byte
    i_take : with `i_step`, from the waiting part
    o : the byte, signed
    """

    def __init__(self, *, fetch_bytes: int):
        self._bits = 8 * fetch_bytes
        super().__init__(
            {
                "i_write": In(1),
                "i_data": In(self._bits),
                "i_step": In(1),
                "i_take": In(1),
                "o": Out(8),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        waiting, active, source = Signal(self._bits), Signal(self._bits), Signal(self._bits)
        m.d.comb += source.eq(Mux(self.i_take, waiting, active))
        with m.If(self.i_write):
            m.d.sync += waiting.eq(self.i_data)
        with m.If(self.i_step):
            m.d.sync += [self.o.eq(source[:8]), active.eq(Cat(source[8:], Const(0, 8)))]
        return m
