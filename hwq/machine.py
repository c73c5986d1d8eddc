"""The machine: what the instruction set means, word for word on memory images, in numpy.

It knows nothing of ONNX. The gateware is compared with it byte for byte; `timing` says how long the gateware takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq import fixed, isa, nibbles, pipeline, weights
from hwq.addresses import Indices, output_addresses, pixel_addresses, strip_inputs, tap_offsets
from hwq.config import ArrayConfig

_CHUNK = (1 << 24) // (128 * 128)
"""Products of two int8 that float32 adds exactly."""

_BLOCK_ELEMENTS = 1 << 24
"""Operands gathered at once, bounding memory."""


@dataclass(frozen=True)
class Status:
    """How a run ended.

    Members
    -------
    error : ErrorCode
        ``NONE`` after HALT.
    slot : int
        The HALT, or the descriptor that failed; of a program without an end the last one.
    """

    error: isa.ErrorCode
    slot: int


class _Stop(Exception):
    def __init__(self, error: isa.ErrorCode):
        self.error = error


class Machine:
    """Memories of one accelerator and the meaning of its descriptors.

    A descriptor reads all its operands before it writes: one whose output overlaps operands of later pixels is not
    defined on hardware. A descriptor that fails writes nothing here; on hardware its output is undefined.

    Members
    -------
    act : int8 (act_bytes,)
    weights : int8 (weight_words, cols)
    params : uint32 (param_words, lanes * PARAM_LANE_WORDS)
    program : uint32 (slots * SLOT_WORDS,)
    tables : int8 (tables, TABLE_ENTRIES)
        Entry i is the image of output byte i - 128.
    """

    def __init__(self, config: ArrayConfig):
        self.config = config
        self.act = np.zeros(config.act_bytes, np.int8)
        self.weights = np.zeros((config.weight_words, config.cols), np.int8)
        self.params = np.zeros((config.param_words, config.lanes * isa.PARAM_LANE_WORDS), np.uint32)
        self.program = np.zeros(config.slots * isa.SLOT_WORDS, np.uint32)
        self.tables = np.zeros((config.tables, isa.TABLE_ENTRIES), np.int8)
        self._mask = (1 << config.address_bits) - 1
        self._legal = config.legal_masks()

    def run(self, slot: int = 0, *, on_layer: Callable[[int], None] | None = None) -> Status:
        """Execute from `slot` until HALT or an error; `on_layer` is called with each slot that has ended."""
        first = slot
        while True:
            try:
                if self._step(slot):
                    return Status(isa.ErrorCode.NONE, slot)
            except _Stop as stop:
                return Status(stop.error, slot - (stop.error is isa.ErrorCode.PC_RANGE and slot > first))
            if on_layer is not None:
                on_layer(slot)
            slot += 1

    def _step(self, slot: int) -> bool:
        """Execute one descriptor; True if it is HALT."""
        d = self._decode(slot)
        if d["opcode"] == isa.Opcode.HALT:
            return True
        pixels = strip_inputs(d) if d["strips"] else pixel_addresses(d, "ifm")
        compute = {isa.Opcode.CONV: self._conv, isa.Opcode.DEPTHWISE: self._depthwise, isa.Opcode.VECTOR: self._vector}
        sums, words, lanes = compute[isa.Opcode(d["opcode"])](d, pixels)
        if words.max() >= self.config.param_words:
            raise _Stop(isa.ErrorCode.PARAM_RANGE)
        parameters = self.params.reshape(self.config.param_words, self.config.lanes, isa.PARAM_LANE_WORDS)
        chosen = parameters[words, lanes]
        value = _requantized(self.config, d, sums, chosen)
        channels = np.arange(len(words), dtype=np.int64)
        if d["residual"]:
            value = self._added(d, sums, value, channels)
        if d["table"]:
            value = self.tables[d["table"] - 1][value.astype(np.int64) + 128]
        if d["ofm_int4"]:
            value, channels = nibbles.join(value), channels[: -(-len(channels) // 2)]
        addresses = output_addresses(d)
        self._check_even(d, addresses, len(channels))
        self.act[self._checked(addresses, channels)] = value
        return False

    def _added(
        self, d: dict[str, int], sums: npt.NDArray[np.int32], value: npt.NDArray[np.int64], channels: Indices
    ) -> npt.NDArray[np.int64]:
        """Return requantized values (pixels, channels) with the second operand, or its product with the sums, added."""
        addresses = pixel_addresses(d, "res")
        self._check_even(d, addresses, len(channels))
        second = self.act[self._checked(addresses, channels)].astype(np.int32)
        if d["product"]:
            second = (sums - d["ifm_zero_point"]) * (second - d["res_zero_point"])
        offset = (d["offset_high"] << 32) | d["offset_low"]
        return fixed.requantize_add(
            value, second, d["factor_a"], d["factor_b"], offset, d["add_shift"], d["add_lo"], d["add_hi"]
        )

    def _decode(self, slot: int) -> dict[str, int]:
        if slot >= self.config.slots:
            raise _Stop(isa.ErrorCode.PC_RANGE)
        words = self.program[slot * isa.SLOT_WORDS :][: isa.DESCRIPTOR_WORDS]
        d = isa.decode(isa.DESCRIPTOR, words.tolist())
        if d["opcode"] == isa.Opcode.HALT:
            return d
        if d["opcode"] not in list(isa.Opcode) or (d["opcode"] == isa.Opcode.VECTOR and not self.config.vector):
            raise _Stop(isa.ErrorCode.ILLEGAL_OPCODE)
        depthwise = d["opcode"] == isa.Opcode.DEPTHWISE
        shapeless = depthwise and ((d["short_from"] and d["span"] == 1) or d["residual"])
        if d["strips"]:
            unfit = d["span"] > self.config.strip_columns or d["taps_y"] >= pipeline.STRIP_STEPS
            uneven = d["pixels"] % 2 or d["row_pixels"] != 2
            several = d["taps_x"] != 1 or d["repeats"] or d["short_from"]
            shapeless = shapeless or unfit or uneven or several or not depthwise
        unary = d["opcode"] != isa.Opcode.VECTOR or not d["residual"] or d["reduce"] != isa.Reduce.MAX
        shapeless = shapeless or (d["product"] and unary)
        stray = any(int(word) & ~mask for word, mask in zip(words, self._legal, strict=True))
        zero = any(field.nonzero and d[field.name] == 0 for field in isa.DESCRIPTOR)
        excess = d["last_channels"] > self.config.block_channels(d) or d["table"] > self.config.tables
        narrow = d["int4"] and (not self.config.int4 or d["opcode"] == isa.Opcode.VECTOR)
        bookless = not self.config.codebooks or d["opcode"] == isa.Opcode.VECTOR or d["int4"]
        misread = d["codebook"] not in list(isa.Codebook) or (d["codebook"] and bookless)
        packed = d["ifm_int4"] or d["ofm_int4"]
        halves = d["ifm_int4"] and weights.Form.of(d) != weights.BYTES
        alone = not self.config.act_int4 or d["opcode"] != isa.Opcode.CONV or halves
        scaled = d["scaled"] and (not self.config.block_scales or d["opcode"] != isa.Opcode.CONV)
        if stray or zero or shapeless or excess or narrow or misread or scaled or (packed and alone):
            raise _Stop(isa.ErrorCode.ILLEGAL_FIELD)
        return d

    def _checked(self, addresses: Indices, run: Indices) -> Indices:
        """Return the addresses of `run` consecutive bytes at each of `addresses`, all inside memory."""
        addresses = addresses & self._mask
        if int(addresses.max()) + int(run[-1]) >= self.config.act_bytes:
            raise _Stop(isa.ErrorCode.ACT_RANGE)
        return addresses[:, None] + run

    def _check_even(self, d: dict[str, int], addresses: Indices, run: int) -> None:
        """Refuse odd addresses of more than one byte where activation memory has one port; VECTOR goes byte by byte."""
        if self.config.one_port and d["opcode"] != isa.Opcode.VECTOR and run > 1 and (addresses & 1).any():
            raise _Stop(isa.ErrorCode.ACT_RANGE)

    def _conv(self, d: dict[str, int], pixels: Indices) -> tuple[npt.NDArray[np.int32], Indices, Indices]:
        """Return the sums (pixels, channels), and each channel's parameter word and lane."""
        cols, lanes, width = self.config.cols, self.config.lanes, self.config.block_channels(d)
        taps = tap_offsets(d)
        starts = (pixels[:, None] + taps) & self._mask
        if int(starts.max()) + d["span"] > self.config.act_bytes:
            raise _Stop(isa.ErrorCode.ACT_RANGE)
        self._check_even(d, starts, d["span"])
        depth = len(taps) * d["span"]
        stored, scales = self._weights(d, depth)
        matrix = (weights.dot_weights(stored) if d["ifm_int4"] else stored).astype(np.float32)
        channels = matrix.shape[1]
        sums = np.empty((len(pixels), channels), np.int32)
        span = np.arange(d["span"], dtype=np.int64)
        batch = max(1, _BLOCK_ELEMENTS // depth)
        for first in range(0, len(pixels), batch):
            index = starts[first : first + batch, :, None] + span
            gathered = self.act[index.reshape(-1, depth)]
            operands = (nibbles.split(gathered) if d["ifm_int4"] else gathered).astype(np.float32)
            if d["scaled"]:
                parts = (slice(k, k + d["span"]) for k in range(0, depth, d["span"]))
                terms = (_wrapped(_product(operands[:, part], matrix[part]), weights.TAP_BITS) for part in parts)
                total = sum(scale * term.astype(np.int64) for scale, term in zip(scales, terms, strict=True))
            else:
                total = _product(operands, matrix)
            sums[first : first + batch] = total.astype(np.int32)
        if (d["int4"] and not d["scaled"]) or d["ifm_int4"]:
            all_short = d["ifm_int4"] or weights.is_paired(d["last_channels"], cols)
            short = slice(channels - (0 if all_short else d["last_channels"]))
            sums[:, short] = _wrapped(sums[:, short], weights.PAIR_BITS)
        if not d["scaled"]:
            sums = _wrapped(sums, self.config.sum_bits)
        block, column = np.divmod(np.arange(channels, dtype=np.int64), width)
        return sums, d["param_base"] + block * (width // lanes) + column // lanes, column % lanes

    def _weights(self, d: dict[str, int], depth: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
        """Return the weights (depth, channels) of a layer, and (taps, channels) the scales of its taps."""
        cols, width, form = self.config.cols, self.config.block_channels(d), weights.Form.of(d)
        words = weights.layer_words(depth, d["blocks"], width, d["last_channels"], cols, form)
        if d["weight_base"] + words > self.config.weight_words:
            raise _Stop(isa.ErrorCode.WEIGHT_RANGE)
        channels = (d["blocks"] - 1) * width + d["last_channels"]
        stored = self.weights[d["weight_base"] :][:words]
        matrix, scales = weights.unpack_layer(stored, depth, channels, width, cols, form)
        return matrix, scales.astype(np.int64)

    def _depthwise(self, d: dict[str, int], pixels: Indices) -> tuple[npt.NDArray[np.int32], Indices, Indices]:
        """Return the sums (pixels, channels), and each channel's parameter word and lane."""
        cols, lanes = self.config.depthwise_cols, self.config.lanes
        channel = np.arange((d["blocks"] - 1) * cols + d["last_channels"], dtype=np.int64)
        spans = [d["span"] - (0 < d["short_from"] <= x) for x in range(d["taps_x"])] * d["taps_y"]
        taps = tap_offsets(d)
        if d["strips"]:  # weights column by column
            taps = (np.arange(d["span"])[:, None] * d["ifm_x_step"] + taps).reshape(-1)
            spans = [1] * len(taps)
        terms = d["repeats"] + 1
        depth = terms * sum(spans)
        matrix = self._weights(d, depth)[0].astype(np.int32)
        sums = np.zeros((len(pixels), len(channel)), np.int32)
        first = 0
        for tap, span in zip(taps, spans, strict=True):
            for position in range(span):
                start = pixels + tap + position * d["ifm_x_step"]
                self._check_even(d, start, len(channel))
                operands = self.act[self._checked(start, channel)].astype(np.int32)
                for step in range(first + position, first + terms * span, span):
                    sums += operands * matrix[step]
            first += terms * span
        sums = _wrapped(sums, self.config.sum_bits)
        block, column = np.divmod(channel, cols)
        return sums, d["param_base"] + block * (-(-cols // lanes)) + column // lanes, column % lanes

    def _vector(self, d: dict[str, int], pixels: Indices) -> tuple[npt.NDArray[np.int32], Indices, Indices]:
        """Return the reduced taps (pixels, channels), and each channel's parameter word and lane."""
        lanes = self.config.lanes
        channel = np.arange((d["blocks"] - 1) * lanes + d["last_channels"], dtype=np.int64)
        result: npt.NDArray[np.int32] | None = None
        for tap in tap_offsets(d):
            operands = self.act[self._checked(pixels + tap, channel)].astype(np.int32)
            if result is None:
                result = operands
            elif d["reduce"] == isa.Reduce.SUM:
                result += operands
            else:
                np.maximum(result, operands, out=result)
        assert result is not None
        return result, d["param_base"] + channel // lanes * d["param_step"], channel % lanes


def _product(operands: npt.NDArray[np.float32], matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the exact product of matrices of int8 numbers."""
    total = np.zeros((len(operands), matrix.shape[1]), np.int64)
    for k in range(0, len(matrix), _CHUNK):
        total += (operands[:, k : k + _CHUNK] @ matrix[k : k + _CHUNK]).astype(np.int64)
    return total


def _wrapped(sums: npt.NDArray[Any], bits: int) -> npt.NDArray[np.int32]:
    """Return the signed numbers that the sums' lowest `bits` stand for."""
    spare = np.int32(32 - bits)
    return sums.astype(np.int32) << spare >> spare


def _requantized(
    config: ArrayConfig, d: dict[str, int], sums: npt.NDArray[np.int32], parameters: npt.NDArray[np.uint32]
) -> npt.NDArray[np.int64]:
    """Return sums (pixels, channels) with each channel's parameters (channels, PARAM_LANE_WORDS) applied."""
    form = isa.TRUNCATE_PARAM if d["truncate"] else isa.PARAM
    p = {field.name: _field(field, parameters) for field in form}
    acc = (sums + p["bias"]).astype(np.int32)
    if config.small:
        acc = _wrapped(acc, config.sum_bits)
    if d["bytewise"]:
        acc = fixed.byte_of_sum(acc, d["byte"]) - np.int32(128)
    constants = d["zero_point"], d["lo"], d["hi"]
    if d["truncate"]:
        offset = p["offset_low"] | p["offset_high"] << form[1].width
        return fixed.requantize_truncate(acc, p["mantissa"], offset, p["shift"], *constants)
    return fixed.requantize(acc, p["mantissa"], p["shift"], *constants)


def _field(field: isa.Field, words: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Return a field of every row of `words`."""
    bits = (words[:, field.word].astype(np.int64) & field.mask) >> field.lsb
    sign = int(field.signed) << (field.width - 1)
    return (bits ^ sign) - sign
