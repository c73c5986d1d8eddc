"""Which CONV layers may begin while the one before them is still writing its last results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

import numpy as np

from hwq import isa, pipeline, timing
from hwq.addresses import Indices, pixel_addresses, tap_offsets
from hwq.config import ArrayConfig


def mark_early(descriptors: Sequence[MutableMapping[str, int]], config: ArrayConfig) -> None:
    """Set `early` on every CONV whose first reads can't meet the unwritten results of the CONV before it.

    A layer that begins early launches a pass every `rows` cycles at most, while the tiles of the layer before are
    written at known times after its last step: a pass must not touch a tile that may be written after it.
    """
    for before, d in itertools.pairwise(descriptors):
        both = before["opcode"] == d["opcode"] == isa.Opcode.CONV
        if both and not before.get("residual") and _is_safe(before, d, config):
            d["early"] = 1


def _is_safe(before: Mapping[str, int], d: Mapping[str, int], config: ArrayConfig) -> bool:
    late = list(_late_writes(isa.complete(before), config))
    window = max(when for when, _ in late)
    for index, reads in enumerate(_passes(isa.complete(d), config)):
        at = pipeline.EARLY_LAUNCH + index * config.rows
        if at >= window:
            return True
        if any(at < when and np.intersect1d(reads, writes).size for when, writes in late):
            return False
    return True


def _late_writes(d: Mapping[str, int], config: ArrayConfig) -> Iterator[tuple[int, Indices]]:
    """Yield, last one first, the tiles written after the last step: when all is in memory, and the bytes."""
    periods = timing.tile_period(d, config)
    period, drain = max(periods.values()), config.rows * config.groups
    lag = 2 * drain if period == periods["output"] else 0  # of an output path that is never idle
    delay = pipeline.first_read(config) + lag + drain - 1 + pipeline.WRITE_BACK
    tiles = -(-d["pixels"] // config.rows)
    pixels = pixel_addresses(d, "ofm")
    for age in range(tiles * d["blocks"]):
        when = delay - age * period
        if when < 0:
            return
        block, tile = divmod(tiles * d["blocks"] - 1 - age, tiles)
        width = d["last_channels"] if block == d["blocks"] - 1 else config.cols
        channels = block * config.cols + np.arange(width)
        yield when, (pixels[tile * config.rows : (tile + 1) * config.rows, None] + channels).reshape(-1)


def _passes(d: Mapping[str, int], config: ArrayConfig) -> Iterator[Indices]:
    """Yield the bytes each pass of the first block reads, in order."""
    fetch, rows = config.fetch_bytes, config.rows
    ifm, res, taps = pixel_addresses(d, "ifm"), pixel_addresses(d, "res"), tap_offsets(d)
    for first in range(0, d["pixels"], rows):
        if d["residual"]:
            width = d["last_channels"] if d["blocks"] == 1 else config.cols
            for start in range(0, width, fetch):
                run = np.arange(start, min(start + fetch, width))
                yield (res[first : first + rows, None] + run).reshape(-1)
        pixels = ifm[first : first + rows, None]
        for offset in taps:
            for start in range(0, d["span"], fetch):
                run = np.arange(start, min(start + fetch, d["span"]))
                yield (pixels + offset + run).reshape(-1)
