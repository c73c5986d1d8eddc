"""Memory with one port, which reads or writes."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from rtl.primitives.families import maker
from rtl.unordered import UNORDERED

__all__ = ["SinglePortRam"]


class SinglePortRam(wiring.Component):
    """`depth` rows of two bytes.

    Latency: 1 from `i_address` to `o_data`; a write can be read in the next cycle. Throughput: a read or a write a
    cycle; what `o_data` is in the cycle after a write isn't defined. Backpressure: none.

    Parameters
    ----------
    depth : int
        Rows, at least 2.

    Members
    -------
    i_address : In(bits of `depth`)
    i_write : In(1)
        Write `i_data` instead of reading.
    i_mask : In(2)
        The bytes to write.
    i_data, o_data : 16 bits

    Raises
    ------
    ValueError
        If there are less than 2 rows.
    """

    def __init__(self, depth: int):
        if not isinstance(depth, int) or depth < 2:
            raise ValueError(f"Memory's depth must be an integer of at least 2, not {depth!r}")
        self.depth = depth
        super().__init__(
            {
                "i_address": In(ceil_log2(depth)),
                "i_write": In(1),
                "i_mask": In(2),
                "i_data": In(16),
                "o_data": Out(16),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        if make := maker(platform, "single_port_ram"):
            return make(self)
        m = Module()
        m.submodules.memory = memory = Memory(shape=16, depth=self.depth, init=[], attrs=UNORDERED)
        read, write = memory.read_port(), memory.write_port(granularity=8)
        m.d.comb += [
            read.addr.eq(self.i_address),
            write.addr.eq(self.i_address),
            write.data.eq(self.i_data),
            write.en.eq(self.i_mask & self.i_write.replicate(2)),
            self.o_data.eq(read.data),
        ]
        return m
