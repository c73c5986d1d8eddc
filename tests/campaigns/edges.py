"""Legal descriptors moved to the edges of what is legal, and just beyond."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from hwq import fixed, isa, timing
from hwq.addresses import Indices, output_addresses, pixel_addresses, strip_inputs, tap_offsets
from hwq.config import ArrayConfig
from hwq.machine import Machine

SHARE = 0.25
"""Of the fields that may move to an edge, those that do."""

Runs = tuple[Indices, int]


def runs(d: dict[str, int], config: ArrayConfig) -> dict[str, Runs]:
    """Return the runs of bytes of a layer with legal fields: of each map, their first addresses and their length."""
    mask = (1 << config.address_bits) - 1
    count = timing.channels(d, config)
    starts = strip_inputs(d) if d["strips"] else pixel_addresses(d, "ifm")
    taps = tap_offsets(d)
    if d["opcode"] == isa.Opcode.DEPTHWISE:
        run, inner = np.arange(d["span"]), np.arange(len(taps)) % d["taps_x"]
        skipped = (d["short_from"] > 0) & (inner >= d["short_from"])[:, None] & (run == d["span"] - 1)
        taps = (taps[:, None] + run * d["ifm_x_step"])[~skipped]
    conv = d["opcode"] == isa.Opcode.CONV
    maps = {"ifm": ((starts[:, None] + taps) & mask, d["span"] if conv else count)}
    if d["residual"]:
        maps["res"] = pixel_addresses(d, "res") & mask, count
    return maps | {"ofm": (output_addresses(d) & mask, timing.pixel_bytes(d, config))}


def end(run: Runs) -> int:
    """Return the address after the last byte."""
    return int(run[0].max()) + run[1]


def defined(layers: Sequence[dict[str, int]], config: ArrayConfig) -> bool:
    """Return whether layers with legal fields mean one thing only.

    They write every byte once and none that they or an early one read.
    """
    before = np.empty(0, np.int64)
    for d in layers:
        maps = {name: (at.reshape(-1, 1) + np.arange(run)).reshape(-1) for name, (at, run) in runs(d, config).items()}
        written = maps.pop("ofm")
        if len(np.unique(written)) != len(written):
            return False
        kept = np.concatenate([written, before]) if d["early"] else written
        if np.isin(np.concatenate([*maps.values()]), kept).any():
            return False
        before = written
    return True


def param_words(d: dict[str, int], config: ArrayConfig) -> int:
    """Return the words of parameter memory of a layer, from `param_base` on."""
    if d["opcode"] == isa.Opcode.VECTOR:
        return (d["blocks"] - 1) * d["param_step"] + 1
    each = -(-config.block_channels(d) // config.lanes)
    return (d["blocks"] - 1) * each + (d["last_channels"] - 1) // config.lanes + 1


def to_edges(fields: dict[str, int], config: ArrayConfig, rng: np.random.Generator) -> dict[str, int]:
    """Return a legal descriptor with some of its fields moved to edges, still legal."""
    d = isa.complete(fields)
    for name, values in _shorter(d, config).items():
        fit = [value for value in values if 0 < value < d[name]]
        if fit and rng.random() < SHARE:
            d[name] = int(rng.choice(fit))
    if d["span"] == 1:
        d["short_from"] = 0
    for name, value in _anywhere(d, config, rng):
        if rng.random() < SHARE:
            d[name] = value
    if d["opcode"] == isa.Opcode.DEPTHWISE and not d["strips"] and rng.random() < SHARE:
        more = d | {"repeats": 3, "weight_base": 0}
        d = more if timing.memory_words(more, config) <= config.weight_words else d
    ends = {"weight_base": config.weight_words, "param_base": config.param_words}
    words = {"param_base": param_words(d, config)}
    if d["opcode"] != isa.Opcode.VECTOR:
        words["weight_base"] = timing.memory_words(d, config)
    for name, count in words.items():
        if rng.random() < SHARE:
            d[name] = int(rng.choice([0, ends[name] - count]))
    if not d["strips"]:
        for name in ("res", "ofm") if d["opcode"] == isa.Opcode.DEPTHWISE else ("ifm", "res", "ofm"):
            if name == "res" and not d["residual"]:
                continue
            for axis, unused in (("x", d["row_pixels"] == 1), ("y", d["pixels"] <= d["row_pixels"])):
                if (unused or name == "res") and rng.random() < SHARE:
                    d[f"{name}_{axis}_step"] = 0
            if rng.random() < SHARE:
                _reverse(d, name)
    half = config.act_bytes // 2
    for name, run in runs(d, config).items():
        low, high = (0, half) if int(run[0].min()) < half else (half, config.act_bytes)
        if rng.random() < SHARE:  # both are even, and so is a whole run of several bytes with one port
            space = high - end(run) if rng.random() < 0.5 else low - int(run[0].min())
            d[f"{name}_base"] += space - int(math.fmod(space, config.grain if run[1] > 1 else 1))
    return d


def _reverse(d: dict[str, int], name: str) -> None:
    """Let a map's last pixel be its first, and the other way round."""
    base = d[f"{name}_base"]
    d[f"{name}_base"] = int(pixel_addresses(d, name).max())
    d[f"{name}_x_step"], d[f"{name}_y_step"] = -d[f"{name}_x_step"], -d[f"{name}_y_step"]
    assert pixel_addresses(d, name).min() >= base


def _shorter(d: dict[str, int], config: ArrayConfig) -> dict[str, list[int]]:
    """Return smaller values of a layer's counts; its maps are the same or smaller."""
    rows, cols, fetch = config.rows, config.cols, config.fetch_bytes
    pixels = [1, 2, rows - 1, rows, rows + 1, 2 * rows, d["row_pixels"]]
    if d["strips"]:
        columns = config.strip_columns
        pixels = [2, 2 * (columns - 1), 2 * columns, 2 * (columns + 1)]
    spans = [1, 2, fetch - 1, fetch, fetch + 1, 2 * fetch]
    if d["opcode"] == isa.Opcode.DEPTHWISE:
        spans = [1, 2]
    return {
        "pixels": pixels,
        "span": spans,
        "taps_y": [1],
        "taps_x": [1] if d["short_from"] == 0 else [],
        "blocks": [1],
        "last_channels": [1, 2, config.lanes, cols - 1, cols, cols + 1],
    }


def _anywhere(d: dict[str, int], config: ArrayConfig, rng: np.random.Generator) -> Iterator[tuple[str, int]]:
    """Yield values of fields of the output path, and of repeats."""
    for name, value in (("lo", -128), ("hi", 127), ("zero_point", rng.choice([-128, 127]))):
        yield name, int(value)
    if rng.random() < 0.2:
        yield "lo", d["hi"]
    elif rng.random() < 0.1:  # each result is one of them
        yield "lo", int(rng.integers(-100, 128))
        yield "hi", int(rng.integers(-128, 0))
    if config.tables:
        yield "table", int(rng.choice([0, 1, config.tables]))
    if d["residual"]:
        for name in ("factor_a", "factor_b"):
            yield name, int(rng.choice([-(1 << 25), -1, 0, 1, (1 << 25) - 1]))
        yield "add_shift", int(rng.choice([0, 31]))
        yield "offset_high", int(rng.choice([-128, 0, 127]))
        yield "add_lo", int(rng.integers(-128, 1))
        yield "add_hi", int(rng.integers(0, 128))
        if rng.random() < 0.1:
            yield "add_lo", int(rng.integers(0, 128))
            yield "add_hi", int(rng.integers(-128, 0))


def fault(d: dict[str, int], config: ArrayConfig, rng: np.random.Generator) -> tuple[dict[str, int], str, str] | None:
    """Return a legal descriptor with one thing wrong, its error's name and what is wrong; None where it can't be."""
    how = str(rng.choice(["opcode", "zero", "excess", "ifm", "res", "ofm", "odd", "weight", "param"]))
    d = dict(d)
    if how == "opcode":
        d["opcode"] = int(rng.integers(len(isa.Opcode), 256))
        return d, "ILLEGAL_OPCODE", how
    if how == "zero":
        d[str(rng.choice([field.name for field in isa.DESCRIPTOR if field.nonzero]))] = 0
        return d, "ILLEGAL_FIELD", how
    if how == "excess":
        d["last_channels"] = config.block_channels(d) + 1
        return d, "ILLEGAL_FIELD", how
    if how == "weight" and d["opcode"] != isa.Opcode.VECTOR:
        d["weight_base"] = config.weight_words - timing.memory_words(d, config) + 1
        return d, "WEIGHT_RANGE", how
    if how == "param":
        d["param_base"] = config.param_words - param_words(d, config) + 1
        return d, "PARAM_RANGE", how
    maps = runs(d, config)
    if how in maps:
        beyond = config.act_bytes - end(maps[how]) + 1
        d[f"{how}_base"] += beyond + (beyond % config.grain if maps[how][1] > 1 else 0)
        return d, "ACT_RANGE", how
    several = [name for name, run in maps.items() if run[1] > 1 and end(run) < config.act_bytes]
    if how == "odd" and config.one_port and several and d["opcode"] != isa.Opcode.VECTOR:
        d[f"{rng.choice(several)}_base"] += 1
        return d, "ACT_RANGE", how
    return None


def extreme(machine: Machine, rng: np.random.Generator) -> None:
    """Fill some memories with what makes sums large, and parameters from the ends of their ranges."""
    for memory in (machine.act, machine.weights):
        if rng.random() < 0.5:
            memory[...] = rng.choice([-128, -127, 127], memory.shape, p=[0.6, 0.2, 0.2])
    least, most = isa.PARAM[0].range
    for word in machine.params.reshape(-1, isa.PARAM_LANE_WORDS):
        if rng.random() < 0.5:
            values = {
                "bias": int(rng.choice([least, -1, 0, 1, most])),
                "shift": int(rng.choice([fixed.SHIFT_MIN, 20, 40, fixed.SHIFT_MAX])),
                "mantissa": int(rng.choice([0, 1 << 23, (1 << 24) - 1])),
            }
            word[:] = isa.encode(isa.PARAM, isa.PARAM_LANE_WORDS, values)
