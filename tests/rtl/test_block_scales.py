"""Block scales against sums in Python integers, in Amaranth's simulator."""

import random

import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from rtl.block_scales import WAITING, BlockScales
from tests import programs

SHAPES = [(1, 1, 4, 1), (2, 3, 4, 1), (4, 4, 4, 2), (3, 4, 4, 4)]


def wrapped(value, bits):
    return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


class Tile:
    """Random scales and sums of a tile's taps, and when they come."""

    def __init__(self, draw, config):
        self.taps, self.groups = draw.randint(1, 5), draw.randint(1, config.groups)
        self.rows = draw.randint(1, config.rows)
        self.scales = [[draw.choice([0, 1, 128, 255, draw.randrange(256)]) for _ in range(config.cols)]
                       for _ in range(self.taps)]  # fmt: skip
        corners = [-(1 << 31), (1 << 31) - 1, -(1 << 23), (1 << 23) - 1, 1 << 23, 1 << 22, -1, 0, 1]
        self.sums = {
            (tap, row, column): draw.choice([*corners, draw.randrange(-(1 << 31), 1 << 31), draw.randrange(1 << 20)])
            for tap in range(self.taps)
            for row in range(config.rows)
            for column in range(config.cols)
        }

    def totals(self, tap, row, column):
        """What the taps up to and with `tap` add up to."""
        parts = (self.scales[t][column] * wrapped(self.sums[t, row, column], 24) for t in range(tap + 1))
        return wrapped(sum(parts), 32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_totals_of_random_tiles(shape):
    config = programs.tiny(*shape, block_scales=1)
    lanes, draw = config.lanes, random.Random(str(shape))
    dut = BlockScales(config)
    tiles = [Tile(draw, config) for _ in range(30)]
    words = [sum(scale << 8 * c for c, scale in enumerate(scales)) for tile in tiles for scales in tile.scales]
    reads = [
        (tile, tap, row, group)
        for tile in tiles
        for tap in range(tile.taps)
        for group in range(tile.groups)
        for row in range(config.rows if group < tile.groups - 1 else tile.rows)
    ]
    ends = [after is None or after[:2] != read[:2] for read, after in zip(reads, [*reads[1:], None], strict=True)]
    expected, results, wait = [], [], 1 + BlockScales.LATENCY

    async def bench(ctx):
        written = done = position = 0
        due, sums = [], [0] * lanes  # results that come later, and what was read a cycle ago
        while position < len(reads) or due:
            if due and due[0][0] == 0:
                results.append([ctx.get(dut.o[lane]) for lane in range(lanes)])
                due.pop(0)
            due = [(left - 1, read) for left, read in due]
            write = written < len(words) and written - done < WAITING and draw.random() < 0.5
            ctx.set(dut.i_write, write)
            ctx.set(dut.i_word, words[written] if write else draw.getrandbits(8 * config.cols))
            for lane in range(lanes):
                ctx.set(dut.i_sum[lane], sums[lane])
            go = position < len(reads) and written > done and draw.random() < 0.8
            ctx.set(dut.i_read, go)
            sums = [draw.randrange(-(1 << 31), 1 << 31) for _ in range(lanes)]
            if go:
                tile, tap, row, group = reads[position]
                columns = range(group * lanes, (group + 1) * lanes)
                sums = [tile.sums[tap, row, column] for column in columns]
                expected.append([tile.totals(tap, row, column) for column in columns])
                ctx.set(dut.i_row, row)
                ctx.set(dut.i_columns, group)
                ctx.set(dut.i_first, tap == 0)
                due.append((wait - 1, reads[position]))
                done += ends[position]
            ctx.set(dut.i_end, ends[position] if go else draw.randrange(2))
            position += go
            written += write
            await ctx.tick()

    simulator = Simulator(Fragment.get(dut, None))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(results) == len(expected) == len(reads)
    assert results == expected
