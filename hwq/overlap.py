"""Which CONV layers may begin while the one before them is still writing its last results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

import numpy as np
import numpy.typing as npt

from hwq import isa, pipeline, timing
from hwq.config import ArrayConfig

Addresses = npt.NDArray[np.int64]


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
    late = list(_late_writes(_complete(before), config))
    window = max(when for when, _ in late)
    for index, reads in enumerate(_passes(_complete(d), config)):
        at = pipeline.EARLY_LAUNCH + index * config.rows
        if at >= window:
            return True
        if any(at < when and np.intersect1d(reads, writes).size for when, writes in late):
            return False
    return True


def _complete(d: Mapping[str, int]) -> dict[str, int]:
    return {field.name: d.get(field.name, 0) for field in isa.DESCRIPTOR}


def _late_writes(d: Mapping[str, int], config: ArrayConfig) -> Iterator[tuple[int, Addresses]]:
    """Yield, last one first, the tiles written after the last step: when all is in memory, and the bytes."""
    periods = timing.tile_period(d, config)
    period, drain = max(periods.values()), config.rows * config.groups
    lag = 2 * drain if period == periods["output"] else 0  # of an output path that is never idle
    delay = pipeline.first_read(config) + lag + drain - 1 + pipeline.WRITE_BACK
    tiles = -(-d["pixels"] // config.rows)
    y, x = np.divmod(np.arange(d["pixels"], dtype=np.int64), d["row_pixels"])
    row_step = d["ofm_y_step"] + (d["row_pixels"] - 1) * d["ofm_x_step"]
    pixels = d["ofm_base"] + x * d["ofm_x_step"] + y * row_step
    for age in range(tiles * d["blocks"]):
        when = delay - age * period
        if when < 0:
            return
        block, tile = divmod(tiles * d["blocks"] - 1 - age, tiles)
        width = d["last_channels"] if block == d["blocks"] - 1 else config.cols
        channels = block * config.cols + np.arange(width)
        yield when, (pixels[tile * config.rows : (tile + 1) * config.rows, None] + channels).reshape(-1)


def _passes(d: Mapping[str, int], config: ArrayConfig) -> Iterator[Addresses]:
    """Yield the bytes each pass of the first block reads, in order."""
    fetch, rows = config.fetch_bytes, config.rows
    order = np.arange(d["pixels"], dtype=np.int64)
    y, x = np.divmod(order, d["row_pixels"])
    walks = {}
    for name in ("ifm", "res"):
        row_step = d[f"{name}_y_step"] + (d["row_pixels"] - 1) * d[f"{name}_x_step"]
        walks[name] = d[f"{name}_base"] + x * d[f"{name}_x_step"] + y * row_step
    for first in range(0, d["pixels"], rows):
        if d["residual"]:
            width = d["last_channels"] if d["blocks"] == 1 else config.cols
            for start in range(0, width, fetch):
                run = np.arange(start, min(start + fetch, width))
                yield (walks["res"][first : first + rows, None] + run).reshape(-1)
        pixels = walks["ifm"][first : first + rows, None]
        for tap in range(d["taps_y"] * d["taps_x"]):
            tap_y, tap_x = divmod(tap, d["taps_x"])
            row_step = d["tap_y_step"] + (d["taps_x"] - 1) * d["tap_x_step"]
            offset = tap_x * d["tap_x_step"] + tap_y * row_step
            for start in range(0, d["span"], fetch):
                run = np.arange(start, min(start + fetch, d["span"]))
                yield (pixels + offset + run).reshape(-1)
