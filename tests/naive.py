"""The instruction set once more, byte by byte in plain Python integers: what `hwq.machine` is compared with."""

from __future__ import annotations

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
        width = config.cols if conv else config.depthwise_cols if depthwise else config.lanes
        channels = (d["blocks"] - 1) * width + d["last_channels"]
        walks = {name: _Walk(d, name) for name in ("ifm", "res", "ofm")}
        results = {}
        for _ in range(d["pixels"]):
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
                            weight = int(machine.weights[d["weight_base"] + block * depth + k, column])
                            total = (total or 0) + int(act[address + i * d["ifm_x_step"] + channel]) * weight
                            k += 1
                        continue
                    if conv:
                        for i in range(d["span"]):
                            depth = d["taps_y"] * d["taps_x"] * d["span"]
                            weight = int(machine.weights[d["weight_base"] + block * depth + k, column])
                            total = (total or 0) + int(act[address + i]) * weight
                            k += 1
                    else:
                        value = int(act[address + channel])
                        if total is None:
                            total = value
                        else:
                            total = total + value if d["reduce"] == isa.Reduce.SUM else max(total, value)
                assert total is not None
                word = d["param_base"]
                if conv or depthwise:
                    word += block * (width // config.lanes) + column // config.lanes
                else:
                    word += block * d["param_step"]
                lane = column % config.lanes
                p = isa.decode(isa.PARAM, machine.params[word, 2 * lane : 2 * lane + 2].tolist())
                acc = _wrap(_wrap(total) + p["bias"])
                a = _requantize(acc, p["mantissa"], p["shift"], d["zero_point"], d["lo"], d["hi"])
                b = int(act[walks["res"].address + channel]) if d["residual"] else 0
                offset = (d["offset_high"] << 32) + d["offset_low"]
                total = a * d["factor_a"] + b * d["factor_b"] + offset
                rounded = Fraction(float(np.float32(total / 2.0 ** d["add_shift"])))
                results[walks["ofm"].address + channel] = max(d["add_lo"], min(d["add_hi"], _round_half_even(rounded)))
            for walk in walks.values():
                walk.advance()
        for address, value in results.items():
            act[address] = value


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
