"""Register stages between the units of the core: the constants that the gateware is built from and `timing` adds up.

All are in clock cycles. The gateware asserts that its components have these latencies, so a changed pipeline can't
leave the cycle model behind.
"""

from __future__ import annotations

from hwq import isa
from hwq.config import ArrayConfig

STRIP_STEPS = 4
"""Steps of one input column of a strip: two output rows and a kernel of up to three rows."""

STEP_LATENCY = 1
"""From the first cycle of a depthwise layer to its first mesh step, where no book is read ahead of it."""

BOOK_LOAD = isa.BOOK_ENTRIES
"""Cycles without a mesh step in which a layer of codebook weights reads a book, an entry a cycle."""

EDGE_TO_SHADOW = 5
"""From a PE's operands on its inputs to its finished accumulator in the shadow register (operand register, two
product registers, accumulator, shadow)."""

REQUANTIZE_LATENCY = 14
"""From an accumulator to its requantized byte."""

ADD_LATENCY = 14
"""From a requantized byte and its second operand to their sum, of two lanes that share an adder."""

SMALL_REQUANTIZE_LATENCY = 11
"""The same, of an array whose output path is the smallest one."""

TABLE_LATENCY = 3
"""From a sum to its entry in the table, or to itself where the layer has none."""

POST_LATENCY = REQUANTIZE_LATENCY + ADD_LATENCY + TABLE_LATENCY
"""From an accumulator to its byte on the write port, of a layer with a second operand."""

SCALE_LATENCY = 3
"""From a tap's sum to the total it is part of, times its scale."""

QUEUE_LATENCY = 2
"""With one port, from the last byte of a word on the write port to the word being ready to be written."""

SMALL_PAUSE = 1
"""Cycles without a step after the last one of a tile, in which the accumulators of a small array start from zero."""

RESIDUAL_BUFFERS = 2
"""Tiles whose second operands can wait between activation memory and the output path; a power of two."""

TURN = 1
"""Cycles in which a walker goes back from a map's last pixel to its first, between two blocks or strips."""

LEAST_PERIOD = 3
"""From a tile's last step to the next one's, at least: the issuer's counters know of it a cycle late."""

BACK_CHANGE = 2
"""Cycles without a read of the mesh between the last result of a layer and the first of one that began early."""

BACK_START = 1
"""From a layer's start to that of the output path and of the vector unit, which reads the same descriptor."""

EARLY_LAUNCH = 4
"""From a layer's last step to the first read of one that begins early."""

BUS_WRITE = 2
"""From one word written over the bus to the next."""


def part_latency(config: ArrayConfig) -> int:
    """Cycles from the launch of a part to the first step that may take it, and from that step to the next launch.

    With two ports a register on either way parts the unit that fetches from the one that issues.
    """
    return 1 if config.one_port else 2


def read_latency(config: ArrayConfig) -> int:
    """Cycles from an activation address to the rotated bytes on the read port.

    With two ports the banks are all over a device, and registers on the way to them and in the rotator.
    """
    return 3 if config.one_port else 6


def write_latency(config: ArrayConfig) -> int:
    """Cycles from a result on the write port to activation memory holding it."""
    return 2 if config.one_port else 5


def way(config: ArrayConfig) -> int:
    """Cycles of bytes from memory to the mesh, of an address from the host to a memory: with two ports they are far."""
    return 0 if config.one_port else 1


def issue_to_edge(config: ArrayConfig) -> int:
    """Cycles from issuing a mesh step to its operands on the mesh's edge.

    A step of a depthwise layer reads activation memory when it is issued. A serializer takes its byte one cycle before
    the edge, and that has a `way` again.
    """
    return read_latency(config) + 1 + 2 * way(config)


def weight_lag(config: ArrayConfig) -> int:
    """Cycles from a step to its weight word's address: with two ports memory has time for one."""
    return 0 if config.one_port else 1


def descriptor_load(config: ArrayConfig) -> int:
    """Cycles from one descriptor's start to the next one being ready: a word each, memory's latency, decode, check."""
    return 27 if config.one_port else 29


def selection(config: ArrayConfig) -> int:
    """Cycles from the read of a result to its shadow register being looked at: with two ports all are far from it."""
    return 0 if config.one_port else 1


def read_out(config: ArrayConfig) -> int:
    """Cycles from the read of a result to its sum on the output path."""
    return 2 if config.one_port else selection(config) + 3 + joining(config)


def joining(config: ArrayConfig) -> int:
    """Cycles in which the sums of mesh and vector unit come together: with two ports that is a place of its own."""
    return 0 if config.one_port else 1


def vector_out(config: ArrayConfig) -> int:
    """Cycles from reading a vector's last bytes to its result on the output path.

    With two ports the bytes have a cycle to come from where the mesh takes them.
    """
    return read_latency(config) + (2 if config.one_port else 3) + joining(config)


def bus_read(config: ArrayConfig) -> int:
    """Cycles from one word read over the bus to the next."""
    return read_latency(config) + way(config) + 4


def pause(config: ArrayConfig) -> int:
    """Cycles without a step after the last one of a tile."""
    return SMALL_PAUSE if config.small else 0


def drain_skew(config: ArrayConfig) -> int:
    """Cycles the first read of a tile's results waits for the skewed columns.

    Results are read group by group of `lanes` columns, row by row within a group, one (group, row) a cycle, while
    column c of row p finishes p + c cycles after the tile's first PE. With one port sums move up by a row a cycle
    after a read, so the first row's waits for the last row to be finished by then.
    """
    if config.one_port:
        return max(0, config.rows - 2)
    return config.lanes - 1 + max(0, (config.groups - 1) * (config.lanes - config.rows))


def strip_skew(config: ArrayConfig) -> int:
    """Cycles by which the last pair of mesh rows lags more in strips than elsewhere."""
    return max(0, config.strip_columns - 1) * (STRIP_STEPS - 2)


def read_interval(config: ArrayConfig, residual: bool | int) -> int:
    """Cycles from one read of a tile's results to the next: with a second operand, two lanes take turns at an adder."""
    return 2 if residual and config.lanes > 1 else 1


def turn_wait(config: ArrayConfig, interval: int) -> int:
    """Cycles without a read between two maps' tiles, read every `interval` cycles: `TURN` begins with the last read.

    A small array's walker isn't at the reads.
    """
    return 0 if config.small else max(0, TURN + 1 - interval)


def overwrite_margin(config: ArrayConfig, paired: bool = False, interval: int = 1) -> int:
    """Cycles a tile's last read lags behind the wave that overwrites it, with `interval` cycles from read to read.

    The wave reaches a row and a column a cycle. Of a `paired` block (see `hwq.weights`) all columns are read twice, so
    each group lags by one round of them more. With one port all columns finish together, and a column's first row holds
    all its sums in turn, until a cycle after the read of the last.
    """
    if config.one_port:  # of a small array the lower bits come a cycle earlier
        return config.rows * config.groups + config.small
    groups = max(0, (config.groups - 1) * (interval * config.rows - config.lanes))
    return groups + (interval - 1) * (config.rows - 1) + (interval * config.rows * config.groups if paired else 0)


def overwrite_slack(config: ArrayConfig, paired: bool = False, interval: int = 1) -> int:
    """Cycles from the first read of a tile's results to the earliest last step that may overwrite them."""
    seen = issue_to_edge(config) + EDGE_TO_SHADOW - selection(config)
    return max(overwrite_margin(config, paired, interval) - seen + 1, LEAST_PERIOD - first_read(config))


def first_read(config: ArrayConfig) -> int:
    """Cycles from issuing a tile's last step to the first read of its results."""
    return issue_to_edge(config) + EDGE_TO_SHADOW + drain_skew(config) - selection(config)


def post_latency(config: ArrayConfig, residual: bool | int) -> int:
    """`POST_LATENCY`, without the adder's share where there is no second operand, or without all but a requantizer."""
    if config.small:
        return SMALL_REQUANTIZE_LATENCY
    return POST_LATENCY if residual else POST_LATENCY - ADD_LATENCY


def write_back(config: ArrayConfig, residual: bool | int) -> int:
    """Cycles from a sum on the output path to memory holding its result."""
    return post_latency(config, residual) + write_latency(config)


def queue_words(config: ArrayConfig) -> int:
    """Words that may wait to be written: those in the output path and of two tiles, while a run of reads goes on."""
    return 1 << (read_out(config) + post_latency(config, config.adder) + 2 * config.rows - 1).bit_length()


def longest_output(config: ArrayConfig) -> int:
    """Cycles from issuing a tile's last step to the end of the reads of its results, at most.

    The step waits until at most one tile is ahead of it, and that one is being read.
    """
    reads = (config.rows * config.groups << config.int4) * read_interval(config, config.adder)
    return first_read(config) + strip_skew(config) + 2 * reads + issue_to_edge(config) + EDGE_TO_SHADOW + BACK_CHANGE


def latest_read(config: ArrayConfig) -> int:
    """Cycles from issuing any tile's last step to the first read of its results, at most, except in strips.

    A last step is issued once the tile before is being read, `overwrite_slack` cycles from that tile's first read. A
    paired block's tiles take one round of the columns longer and have as much more slack.
    """
    reads = config.rows * config.groups
    intervals = {read_interval(config, residual and config.adder) for residual in (0, 1)}
    wait = max(interval * reads - overwrite_slack(config, interval=interval) for interval in intervals) + BACK_CHANGE
    return max(first_read(config), wait)
