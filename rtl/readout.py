"""Readout: from the mesh's shadow registers to the sums of `lanes` neighbouring columns of one row."""

import functools
import operator

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from hwq.config import ArrayConfig
from rtl.mesh import shadow_shape
from rtl.paired import chosen_sum
from rtl.pipeline import delayed


class Readout(wiring.Component):
    """Select row `i_row` and the `lanes` columns from ``lanes * i_columns`` on.

    A register behind each shadow register is reset while the PE isn't selected, which costs no lookup table, so that
    what remains is to join them all by OR: half of a multiplexer. Arrays with one port of activation memory are for
    FPGAs where a register takes the place of a lookup table; there the selection is registered instead, and the shadow
    registers are read a cycle later.

    Latency: `READ_OUT`. Throughput: `lanes` sums a cycle. Backpressure: none.

    Members
    -------
    i_row, i_columns : the PEs
    i_pairs, i_high : with `int4`, their shadow registers hold two sums; the high one is meant
    i_shadow : sum of PE (p, c) at index p * cols + c
    o : for each lane the sum, `READ_OUT` cycles after its PE was selected
    """

    LATENCY = 2

    def __init__(self, config: ArrayConfig):
        self._config = config
        shadows = data.ArrayLayout(shadow_shape(config.int4), config.rows * config.cols)
        super().__init__(
            {
                "i_row": In(range(config.rows)),
                "i_columns": In(range(config.groups)),
                "i_pairs": In(1),
                "i_high": In(1),
                "i_shadow": In(shadows),
                "o": Out(data.ArrayLayout(32, config.lanes)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        assert pipeline.READ_OUT == self.LATENCY
        config = self._config
        lanes, groups = config.lanes, config.groups
        pairs, high = delayed(m, self.i_pairs, 1), delayed(m, self.i_high, 1)
        kept: list[list[Value]] = [[] for _ in range(lanes)]
        for row in range(config.rows):
            for group in range(groups):
                selected = Signal(name=f"selected_{row}_{group}")
                m.d.comb += selected.eq((self.i_row == row) & (self.i_columns == group))
                late = delayed(m, selected, 1) if config.one_port else None
                for lane in range(lanes):
                    shadow = Value.cast(self.i_shadow[row * config.cols + group * lanes + lane])
                    if late is not None:
                        kept[lane].append(shadow & late.replicate(len(shadow)))
                        continue
                    gated = Signal(len(shadow), name=f"gated_{row}_{group}_{lane}", reset_less=True)
                    m.d.sync += gated.eq(Mux(selected, shadow, 0))
                    kept[lane].append(gated)
        for lane in range(lanes):
            sums = Signal(shadow_shape(config.int4), name=f"sums_{lane}")
            m.d.comb += Value.cast(sums).eq(functools.reduce(operator.or_, kept[lane]))
            m.d.sync += self.o[lane].eq(chosen_sum(sums, pairs, high) if config.int4 else sums)
        return m
