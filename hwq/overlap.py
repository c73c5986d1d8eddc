"""Which layers of the mesh may begin while the one before them is still writing its last results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

import numpy as np

from hwq import isa, pipeline, timing
from hwq.addresses import Indices, output_addresses, pixel_addresses, tap_offsets
from hwq.config import ArrayConfig


def mark_early(descriptors: Sequence[MutableMapping[str, int]], config: ArrayConfig) -> None:
    """Set `early` on every layer of the mesh whose first reads can't meet the unwritten results of the one before it.

    A layer that begins early reads at known times after the last step of the layer before, at the earliest, whose
    tiles are in memory at known times, at the latest: a read must not touch a tile that may be written after it.
    """
    if not config.overlaps:  # the words of the layer before would be among the reads
        return
    for before, d in itertools.pairwise(descriptors):
        on_mesh = isa.Opcode.VECTOR not in (before["opcode"], d["opcode"])
        prompt = not before.get("residual") and not before.get("scaled")
        if on_mesh and prompt and _is_safe(isa.complete(before), isa.complete(d), config):
            d["early"] = 1


def _is_safe(before: Mapping[str, int], d: Mapping[str, int], config: ArrayConfig) -> bool:
    late = list(_late_writes(before, config))
    window = max(when for when, _ in late)
    reads = _conv_reads(d, config) if d["opcode"] == isa.Opcode.CONV else _depthwise_reads(d, config)
    for at, addresses in reads:
        if pipeline.EARLY_LAUNCH + at >= window:
            return True
        if any(pipeline.EARLY_LAUNCH + at < when and np.isin(addresses, writes).any() for when, writes in late):
            return False
    return True


def _late_writes(d: Mapping[str, int], config: ArrayConfig) -> Iterator[tuple[int, Indices]]:
    """Yield, last one first, the tiles written after the last step: when all is in memory, and the bytes.

    The output path reads one tile after another. It may begin late with a layer's first tile, which came while it
    still read the layer before; it catches up with every tile that takes more steps than reads.
    """
    tiles = _tiles(d, config)
    addresses = output_addresses(d)
    width = config.block_channels(d)
    prompt = pipeline.first_read(config) + (pipeline.strip_skew(config) if d["strips"] else 0)
    late = 0 if d["strips"] else max(0, pipeline.latest_read(config) - prompt)  # a strip begins when nothing waits
    steps = 0 if d["strips"] else timing.weight_words(d)  # between the last steps of two tiles, at least
    gain = max(0, steps - timing.drain_cycles(config.rows, width, config, d["residual"]))
    begun, age = prompt, 0  # the read of the tile `age` before the last begins, at the latest
    for block in reversed(range(d["blocks"])):
        count = d["last_channels"] if block == d["blocks"] - 1 else width
        first, end = (-(-channel >> d["ofm_int4"]) for channel in (block * width, block * width + count))
        for tile, pixels in reversed(tiles):
            drain = timing.drain_cycles(pixels, count, config, d["residual"])
            ahead = len(tiles) * d["blocks"] - 1 - age
            bound = prompt + max(0, late - ahead * gain) - age * steps
            begun, age = min(bound, begun - drain) if age else bound, age + 1
            when = begun + drain - 1 + pipeline.read_out(config) + pipeline.write_back(config, d["residual"])
            if when <= 0:
                return
            yield when, (addresses[tile][:, None] + np.arange(first, end)).reshape(-1)


def _tiles(d: Mapping[str, int], config: ArrayConfig) -> list[tuple[slice, int]]:
    """Return the outputs of each tile of a block, in order, and how many pixels the output path reads for them."""
    if d["opcode"] == isa.Opcode.CONV:
        return [(tile, tile.stop - tile.start) for tile in _cut(0, d["pixels"], config.rows)]
    if d["strips"]:
        heights = [2] * (d["strips"] - d["short_strip"]) + [1] * d["short_strip"]
        return [
            (tile, (tile.stop - tile.start) * 2 // height)
            for strip, height in enumerate(heights)
            for tile in _cut(strip * d["pixels"], height * (d["pixels"] // 2), height * config.strip_columns)
        ]
    return [
        (tile, tile.stop - tile.start)
        for first in range(0, d["pixels"], d["row_pixels"])
        for tile in _cut(first, min(d["row_pixels"], d["pixels"] - first), config.rows)
    ]


def _cut(first: int, count: int, size: int) -> list[slice]:
    end = first + count
    return [slice(start, min(start + size, end)) for start in range(first, end, size)]


def _conv_reads(d: Mapping[str, int], config: ArrayConfig) -> Iterator[tuple[int, Indices]]:
    """Yield the bytes each pass of a CONV's first block reads, and the earliest cycle it may after the layer's first.

    Later blocks read the same pixels again.
    """
    fetch, rows = config.fetch_bytes, config.rows
    ifm, res, taps = pixel_addresses(d, "ifm"), pixel_addresses(d, "res"), tap_offsets(d)
    width = d["last_channels"] if d["blocks"] == 1 else config.block_channels(d)
    at = 0
    for tile in _cut(0, d["pixels"], rows):
        runs = [(res[tile], 0, width)] if d["residual"] else []
        runs += [(ifm[tile], int(tap), d["span"]) for tap in taps]
        for pixels, offset, count in runs:
            for part in _cut(offset, count, fetch):
                yield at, (pixels[:, None] + np.arange(part.start, part.stop)).reshape(-1)
                at += rows


def _depthwise_reads(d: Mapping[str, int], config: ArrayConfig) -> Iterator[tuple[int, Indices]]:
    """Yield the bytes each tile or input column of a DEPTHWISE layer reads, and the earliest cycle it may."""
    width, at = config.depthwise_cols, 0
    for block in range(d["blocks"]):
        count = d["last_channels"] if block == d["blocks"] - 1 else width
        channels = block * width + np.arange(count)
        for pixels, steps in _strip_reads(d) if d["strips"] else _row_reads(d, config):
            yield at, (pixels[:, None] + channels).reshape(-1)
            at += steps


def _strip_reads(d: Mapping[str, int]) -> Iterator[tuple[Indices, int]]:
    """Yield the pixels of each input column, and its steps."""
    for strip in range(d["strips"]):
        rows = d["taps_y"] + (0 if d["short_strip"] and strip == d["strips"] - 1 else 1)
        for column in range(d["pixels"] // 2 + d["span"] - 1):
            start = d["ifm_base"] + 2 * strip * d["tap_y_step"] + column * d["ifm_x_step"]
            yield start + np.arange(rows) * d["tap_y_step"], pipeline.STRIP_STEPS


def _row_reads(d: Mapping[str, int], config: ArrayConfig) -> Iterator[tuple[Indices, int]]:
    """Yield the pixels of each run of each tile, and its steps."""
    ifm, taps = pixel_addresses(d, "ifm"), tap_offsets(d)
    spans = timing.run_spans(d)
    for tile, pixels in _tiles(d, config):
        for index, span in enumerate(spans):
            tap = taps[index // (d["repeats"] + 1)]
            steps = pixels + span - 1
            yield ifm[tile.start] + tap + np.arange(steps) * d["ifm_x_step"], steps
