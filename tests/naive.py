"""The instruction set once more, byte by byte in plain Python integers: what `hwq.machine` is compared with."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from hwq import isa
from hwq.machine import Machine


def _wrap(value: int) -> int:
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def _round_half_even(value: Fraction) -> int:
    return round(value)


def _requantize(acc: int, mantissa: int, shift: int, zero_point: int, lo: int, hi: int) -> int:
    """Float32 arithmetic as ONNX Runtime does it: two rounded float32 operations, then round half to even."""
    multiplier = np.float32(mantissa * 2.0**-shift)
    value = float(np.float32(np.float32(acc) * multiplier))
    return max(lo, min(hi, _round_half_even(Fraction(value)) + zero_point))


def run(machine: Machine) -> None:
    """Execute the program at slot 0 of `machine`, in its memories."""
    config, act = machine.config, machine.act
    for slot in range(config.slots):
        words = machine.program[slot * isa.SLOT_WORDS :][: isa.DESCRIPTOR_WORDS]
        d = isa.decode(isa.DESCRIPTOR, words.tolist())
        if d["opcode"] == isa.Opcode.HALT:
            return
        conv = d["opcode"] == isa.Opcode.CONV
        depthwise = d["opcode"] == isa.Opcode.DEPTHWISE
        wide = d["int4"] and not d["scaled"]
        width = config.cols << wide if conv else config.depthwise_cols if depthwise else config.lanes
        channels = (d["blocks"] - 1) * width + d["last_channels"]
        walks = {name: _Walk(d, name) for name in ("ifm", "res", "ofm")}
        results = {}
        if d["strips"]:
            _strips(machine, d, results)
        for _ in range(0 if d["strips"] else d["pixels"]):
            for channel in range(channels):
                block, column = divmod(channel, width)
                total: int | None = None
                k = 0
                for tap, offset in enumerate(_taps(d)):
                    address = walks["ifm"].address + offset
                    if depthwise:
                        spans = [d["span"] - (0 < d["short_from"] <= x) for x in range(d["taps_x"])]
                        depth = d["taps_y"] * sum(spans) * (d["repeats"] + 1)
                        for i in list(range(spans[tap % d["taps_x"]])) * (d["repeats"] + 1):
                            weight = _weight(machine, d, depth, block, k, column)
                            total = (total or 0) + int(act[address + i * d["ifm_x_step"] + channel]) * weight
                            k += 1
                        continue
                    if conv and d["scaled"]:
                        scale, weights = _scaled_tap(machine, d, block, tap, column)
                        part = sum(int(act[address + i]) * weight for i, weight in enumerate(weights))
                        total = (total or 0) + scale * ((part + (1 << 23)) % (1 << 24) - (1 << 23))
                    elif conv:
                        for i in range(d["span"]):
                            total = (total or 0) + _product(machine, d, int(act[address + i]), block, k, column)
                            k += 1
                    else:
                        value = int(act[address + channel])
                        if total is None:
                            total = value
                        else:
                            total = total + value if d["reduce"] == isa.Reduce.SUM else max(total, value)
                assert total is not None
                paired = conv and wide and (block < d["blocks"] - 1 or d["last_channels"] > config.cols)
                if paired or d["ifm_int4"]:
                    total = (total + (1 << 23)) % (1 << 24) - (1 << 23)
                word = d["param_base"]
                if conv or depthwise:
                    word += block * (width // config.lanes) + column // config.lanes
                else:
                    word += block * d["param_step"]
                lane = column % config.lanes
                p = isa.decode(isa.PARAM, machine.params[word, 2 * lane : 2 * lane + 2].tolist())
                value = _scaled(total, p, d)
                if d["residual"]:
                    b = int(act[walks["res"].address + channel])
                    if d["product"]:
                        b = (total - d["ifm_zero_point"]) * (b - d["res_zero_point"])
                    offset = (d["offset_high"] << 32) + d["offset_low"]
                    total = value * d["factor_a"] + b * d["factor_b"] + offset
                    rounded = Fraction(float(np.float32(total / 2.0 ** d["add_shift"])))
                    value = max(d["add_lo"], min(d["add_hi"], _round_half_even(rounded)))
                value, address = _mapped(machine, d, value), walks["ofm"].address + channel
                if d["ofm_int4"]:
                    address = walks["ofm"].address + channel // 2
                    value = results[address] % 16 + value % 16 * 16 if channel % 2 else value % 16
                results[address] = (value + 128) % 256 - 128
            for walk in walks.values():
                walk.advance()
        for address, value in results.items():
            act[address] = value


def _truncated(acc: int, mantissa: int, offset: int, shift: int, zero_point: int, lo: int, hi: int) -> int:
    """Round the magnitude down; beyond 24 bits count in units of the last bit that float32 holds."""
    held = abs(int(np.float32(acc)))
    unit = 1 << max(held.bit_length() - 24, 0)
    whole = math.floor(Fraction((held // unit * mantissa + offset * 4096) * unit, 2**shift))
    return max(lo, min(hi, (whole if acc >= 0 else -whole) + zero_point))


def _scaled(total: int, p: dict[str, int], d: dict[str, int]) -> int:
    if d["truncate"]:
        offset, bias = divmod(p["bias"] % (1 << 32), 1 << 22)
        offset += p["offset_high"] * 1024
        acc = _byte(d, _wrap(_wrap(total) + (bias ^ 1 << 21) - (1 << 21)))
        return _truncated(acc, p["mantissa"], offset, p["shift"], d["zero_point"], d["lo"], d["hi"])
    acc = _byte(d, _wrap(_wrap(total) + p["bias"]))
    return _requantize(acc, p["mantissa"], p["shift"], d["zero_point"], d["lo"], d["hi"])


def _byte(d: dict[str, int], acc: int) -> int:
    """Return what is requantized of a sum: all of it, or one byte less 128."""
    return acc.to_bytes(4, "little", signed=True)[d["byte"]] - 128 if d["bytewise"] else acc


def _product(machine: Machine, d: dict[str, int], value: int, block: int, k: int, column: int) -> int:
    """Return byte k of a CONV's operands times its weight; of 4-bit ones, the sum of both channels' products."""
    depth = d["taps_y"] * d["taps_x"] * d["span"]
    weight = _weight(machine, d, depth, block, k, column)
    if not d["ifm_int4"]:
        return value * weight
    return _nibble(value, 0) * _nibble(weight, 1) + _nibble(value, 1) * _nibble(weight, 0)


def _nibble(byte: int, high: int) -> int:
    nibble = (byte >> 4 * high) % 16
    return nibble - 16 if nibble >= 8 else nibble


def _weight(machine: Machine, d: dict[str, int], depth: int, block: int, k: int, channel: int) -> int:
    """Return weight k of a channel of a block of `depth` weights a channel."""
    cols, base = machine.config.cols, d["weight_base"]
    if d["codebook"]:
        return _entry(machine, d, depth, block, k, channel)
    if not d["int4"]:
        return int(machine.weights[base + block * depth + k, channel])
    conv, last = d["opcode"] == isa.Opcode.CONV, block == d["blocks"] - 1
    if conv and not (last and d["last_channels"] <= cols):
        byte = int(machine.weights[base + block * depth + k, channel % cols])
        high = channel >= cols
    else:
        first = block * depth if conv else block * ((depth + 1) // 2)
        byte = int(machine.weights[base + first + k // 2, channel])
        high = k % 2 == 1
    return _nibble(byte, high)


def _entry(machine: Machine, d: dict[str, int], depth: int, block: int, k: int, channel: int) -> int:
    """Return the entry of a book that weight k of a channel of a block names."""
    of_block = d["codebook"] == 2
    book_words = (16 + machine.config.cols - 1) // machine.config.cols
    books = block + 1 if of_block else 1
    first = d["weight_base"] + block * ((depth + 1) // 2) + books * book_words
    byte = int(machine.weights[first + k // 2, channel])
    return _book_entry(machine, first - book_words if of_block else d["weight_base"], byte >> 4 if k % 2 else byte)


def _book_entry(machine: Machine, book: int, index: int) -> int:
    cols = machine.config.cols
    return int(machine.weights[book + (index & 15) // cols, (index & 15) % cols])


def _scaled_tap(machine: Machine, d: dict[str, int], block: int, tap: int, column: int) -> tuple[int, list[int]]:
    """Return the scale and the weights of a tap of a channel."""
    taps, span, halves = d["taps_y"] * d["taps_x"], d["span"], d["int4"] or d["codebook"]
    words = 1 + ((span + 1) // 2 if halves else span)
    book_words = (16 + machine.config.cols - 1) // machine.config.cols
    books = (0, 1, block + 1)[d["codebook"]] * book_words
    book = d["weight_base"] + (block * (taps * words + book_words) if d["codebook"] == 2 else 0)
    first = d["weight_base"] + books + (block * taps + tap) * words
    scale = int(machine.weights[first, column]) % 256
    weights = []
    for k in range(span):
        byte = int(machine.weights[first + 1 + (k // 2 if halves else k), column])
        nibble = (byte >> 4 if k % 2 else byte) & 15
        if d["codebook"]:
            weights.append(_book_entry(machine, book, nibble))
        else:
            weights.append((nibble ^ 8) - 8 if d["int4"] else byte)
    return scale, weights


def _strips(machine: Machine, d: dict[str, int], results: dict[int, int]) -> None:
    """Compute a DEPTHWISE layer in strips of two rows, its output path passing requantized values on."""
    config = machine.config
    pitch, width = d["ofm_x_step"], config.depthwise_cols
    column_step = d["ofm_x_step"] + d["ofm_y_step"]
    for strip in range(d["strips"]):
        rows = 1 if d["short_strip"] and strip == d["strips"] - 1 else 2
        for row in range(rows):
            for column in range(d["pixels"] // 2):
                for channel in range((d["blocks"] - 1) * width + d["last_channels"]):
                    block, lane = divmod(channel, width)
                    total = 0
                    for kx in range(d["span"]):
                        for ky in range(d["taps_y"]):
                            address = d["ifm_base"] + (2 * strip + row + ky) * d["tap_y_step"] + channel
                            weight = _weight(machine, d, d["span"] * d["taps_y"], block, kx * d["taps_y"] + ky, lane)
                            total += int(machine.act[address + (column + kx) * d["ifm_x_step"]]) * weight
                    word = d["param_base"] + block * (width // config.lanes) + lane // config.lanes
                    at = 2 * (lane % config.lanes)
                    p = isa.decode(isa.PARAM, machine.params[word, at : at + 2].tolist())
                    value = _scaled(total, p, d)
                    target = d["ofm_base"] + strip * d["res_x_step"] + row * pitch + column * column_step + channel
                    results[target] = _mapped(machine, d, max(d["add_lo"], min(d["add_hi"], value)))


def _mapped(machine: Machine, d: dict[str, int], value: int) -> int:
    if not d["table"]:
        return value
    return int(machine.tables.reshape(-1)[(d["table"] - 1) * 256 + 128 + value])


class _Walk:
    def __init__(self, d: dict[str, int], name: str):
        self._row_pixels, self._column = d["row_pixels"], 0
        self._x_step, self._y_step = d[f"{name}_x_step"], d[f"{name}_y_step"]
        self.address = d[f"{name}_base"]

    def advance(self) -> None:
        self._column += 1
        if self._column == self._row_pixels:
            self._column = 0
            self.address += self._y_step
        else:
            self.address += self._x_step


def _taps(d: dict[str, int]) -> list[int]:
    offset, offsets = 0, []
    for _ in range(d["taps_y"]):
        for x in range(d["taps_x"]):
            offsets.append(offset)
            offset += d["tap_y_step"] if x == d["taps_x"] - 1 else d["tap_x_step"]
    return offsets
