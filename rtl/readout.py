"""From the mesh's shadow registers to the sums of `lanes` neighbouring columns of one row."""

import functools
import operator

from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.mesh import shadow_shape
from rtl.paired import chosen_sum
from rtl.pipeline import delayed


class Readout(wiring.Component):
    """Select `lanes` neighbouring columns of a row.

    A register behind each shadow register is reset while the PE isn't selected, which costs no lookup table, so that
    what remains is to join them all by OR: a quarter of a multiplexer.

    Latency: 4. Throughput: `lanes` sums a cycle. Backpressure: none.

    Members
    -------
    i_selected : the PEs, by a bit for each row and `lanes` columns, at index row * groups + group
    i_pairs, i_high : with `int4`, their shadow registers hold two sums; the high one is meant
    i_shadow : sum of PE (p, c) at index p * cols + c
    o : for each lane the sum, four cycles after its PE was selected
    """

    LATENCY = 4

    def __init__(self, config: ArrayConfig):
        self._config = config
        shadows = data.ArrayLayout(shadow_shape(config.int4, config.sum_bits), config.rows * config.cols)
        super().__init__(
            {
                "i_selected": In(config.rows * config.groups),
                "i_pairs": In(1),
                "i_high": In(1),
                "i_shadow": In(shadows),
                "o": Out(data.ArrayLayout(signed(32), config.lanes)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m, config = Module(), self._config
        assert pipeline.selection(config) + 3 == self.LATENCY
        lanes, groups, selection = config.lanes, config.groups, pipeline.selection(config)
        pairs, high = (delayed(m, bit, 2 + selection) for bit in (self.i_pairs, self.i_pairs & self.i_high))
        gated = [[] for _ in range(lanes)]
        for row in range(config.rows):
            for group in range(groups):
                # the registers' reset itself, so that no lookup table is on its way
                others = Signal(name=f"others_{row}_{group}")
                m.d.comb += others.eq(delayed(m, ~self.i_selected[row * groups + group], selection))
                for lane in range(lanes):
                    shadow = Value.cast(self.i_shadow[row * config.cols + group * lanes + lane])
                    kept = Signal(len(shadow), name=f"kept_{row}_{group}_{lane}", reset_less=True)
                    m.d.sync += kept.eq(Mux(others, 0, shadow))
                    gated[lane].append(kept)
        for lane in range(lanes):
            sums = Signal(shadow_shape(config.int4, config.sum_bits), name=f"sums_{lane}")
            m.d.sync += Value.cast(sums).eq(functools.reduce(operator.or_, gated[lane]))
            m.d.sync += self.o[lane].eq(chosen_sum(sums, pairs, high) if config.int4 else sums)
        return m


class ShiftReadout(wiring.Component):
    """Read column by column the sums of the mesh's first row, to which the others move up as they are read.

    Fewer cells than `Readout`, but a tile's rows must come in order, and all of them be finished before the second.

    Latency: 2. Throughput: one sum a cycle. Backpressure: none.

    Members
    -------
    i_read, i_column : read the sum of this column
    i_shadow : sums of the first row
    o_shift : one bit a column: move its sums up a row
    o : the sum, two cycles after `i_read`
    """

    LATENCY = 2

    def __init__(self, config: ArrayConfig):
        self._latency, sums = pipeline.read_out(config), signed(config.sum_bits)
        super().__init__(
            {
                "i_read": In(1),
                "i_column": In(range(config.cols)),
                "i_shadow": In(data.ArrayLayout(sums, config.cols)),
                "o_shift": Out(config.cols),
                "o": Out(data.ArrayLayout(sums, 1)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        assert self._latency == self.LATENCY
        column, read = delayed(m, self.i_column, 1), delayed(m, self.i_read, 1)
        m.d.comb += self.o_shift.eq(read << column)
        m.d.sync += self.o[0].eq(self.i_shadow[column])
        return m
