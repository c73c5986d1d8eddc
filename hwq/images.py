"""Contents of the accelerator's memories, collected layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq import fixed, isa, timing
from hwq.config import ArrayConfig
from hwq.errors import CapacityError

IDENTITY = {"bias": 0, "mantissa": 1 << (fixed.MULTIPLIER_BITS - 1), "shift": fixed.MULTIPLIER_BITS - 1}
"""Parameters that requantize every accumulator in -128..127 to itself; they fill parameter word 0."""


@dataclass
class Images:
    """Program, parameter and weight memory under construction.

    Members
    -------
    config : ArrayConfig
    shared : bool
        Keep equal weights, and equal parameters, of different layers once.
    descriptors : list of field mappings, one a slot
    labels : list of str
        For each slot, the operator it belongs to; empty for HALT.
    params : list of uint32 (lanes, PARAM_LANE_WORDS)
    weights : list of int8 (n, cols)
    tables : list of int8 (TABLE_ENTRIES,)
        All different.
    constants : list of (address, int8 bytes)
        Written to activation memory once; they lie at its end.
    """

    config: ArrayConfig
    shared: bool = False
    descriptors: list[dict[str, int]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    params: list[npt.NDArray[np.uint32]] = field(default_factory=list)
    weights: list[npt.NDArray[np.int8]] = field(default_factory=list)
    tables: list[npt.NDArray[np.int8]] = field(default_factory=list)
    constants: list[tuple[int, npt.NDArray[np.int8]]] = field(default_factory=list)
    constant_bytes: int = 0
    _weight_words: int = 0
    _known: dict[tuple[str, int, bytes], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lane = isa.encode(isa.PARAM, isa.PARAM_LANE_WORDS, IDENTITY)
        self.params.append(np.tile(np.array(lane, np.uint32), (self.config.lanes, 1)))

    def cycles(self) -> int:
        """Return the cycles of the descriptors, every run of them from start to done."""
        complete = [isa.complete(d) for d in self.descriptors]
        total, first = 0, 0
        for slot, d in enumerate(complete):
            if d["opcode"] == isa.Opcode.HALT:
                total += timing.predict(complete[first : slot + 1], self.config).total
                first = slot + 1
        return total

    def add_descriptor(self, fields: dict[str, int], label: str) -> int:
        """Append a descriptor and return its slot."""
        slot = len(self.descriptors)
        self._fits("program slots", "slots", slot + 1, self.config.slots, label)
        self.descriptors.append(fields)
        self.labels.append(label)
        return slot

    def add_params(
        self, bias: npt.NDArray[np.int32], multiplier: npt.NDArray[np.float32], label: str, width: int
    ) -> int:
        """Append a parameter set a channel, `lanes` to a word, each block of `width` beginning one; return the first.

        Parameters
        ----------
        bias : int32 (channels,)
        multiplier : float32 (channels,)
        """
        config, first, channels = self.config, len(self.params), len(bias)
        blocks = -(-channels // width)
        sets = _encoded(bias, multiplier)
        padded = np.zeros((blocks * width, isa.PARAM_LANE_WORDS), np.uint32)
        padded[:channels] = sets
        words = -(-channels // config.lanes)
        if (known := self._same("params", width, sets, first)) is not None:
            return known
        self._fits("parameter memory", "param_words", first + words, config.param_words, label)
        self.params += list(padded.reshape(-1, config.lanes, isa.PARAM_LANE_WORDS)[:words])
        return first

    def add_lane_params(self, bias: npt.NDArray[np.int32], multiplier: npt.NDArray[np.float32], label: str) -> int:
        """Append one parameter word, a set for each lane; return its index."""
        self._fits("parameter memory", "param_words", len(self.params) + 1, self.config.param_words, label)
        self.params.append(_encoded(bias, multiplier))
        return len(self.params) - 1

    def add_weights(self, weights: npt.NDArray[np.int8], label: str, width: int) -> int:
        """Append a (K, channels) matrix in blocks of `width` channels, at most `cols`; return the first word."""
        config, first = self.config, self._weight_words
        depth, channels = weights.shape
        blocks = -(-channels // width)
        if (known := self._same("weights", width, weights, first)) is not None:
            return known
        self._fits("weight memory", "weight_words", first + blocks * depth, config.weight_words, label)
        padded = np.zeros((depth, blocks * width), np.int8)
        padded[:, :channels] = weights
        words = np.zeros((blocks * depth, config.cols), np.int8)
        words[:, :width] = padded.reshape(depth, blocks, width).transpose(1, 0, 2).reshape(-1, width)
        self.weights.append(words)
        self._weight_words += blocks * depth
        return first

    def add_table(self, entries: npt.NDArray[np.int8], label: str) -> int:
        """Append a table, unless there is an equal one; return its number as the `table` field has it, from 1 on.

        Parameters
        ----------
        entries : int8 (TABLE_ENTRIES,)
            Entry i is the image of output byte i - 128.
        """
        for number, table in enumerate(self.tables, 1):
            if np.array_equal(table, entries):
                return number
        self._fits("table memory", "tables", len(self.tables) + 1, self.config.tables, label)
        self.tables.append(entries)
        return len(self.tables)

    def add_constant(self, data: npt.NDArray[np.int8], label: str) -> int:
        """Reserve room at the end of activation memory for `data`; return its address."""
        self.constant_bytes += -(-data.size // 4) * 4
        self._fits("activation memory", "act_bytes", self.constant_bytes, self.config.act_bytes, label)
        address = self.config.act_bytes - self.constant_bytes
        self.constants.append((address, data.reshape(-1)))
        return address

    def _same(self, kind: str, width: int, data: npt.NDArray[Any], first: int) -> int | None:
        """Return where `data` already lies, where equal ones are kept once; else note that it will begin at `first`."""
        if not self.shared:
            return None
        key = f"{kind} {data.shape}", width, data.tobytes()
        return None if self._known.setdefault(key, first) == first else self._known[key]

    def _fits(self, memory: str, member: str, need: int, there: int, label: str) -> None:
        if need > there:
            raise CapacityError(
                f"Layer {label!r} doesn't fit: {memory} would need {need}, arch {self.config.name!r} has {there} "
                f"({member}); choose an arch with more",
                member,
            )


def _encoded(bias: npt.NDArray[np.int32], multiplier: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return the parameters of each channel as `isa.PARAM` packs them, (channels, PARAM_LANE_WORDS)."""
    mantissa, shift = fixed.encode_multiplier(multiplier)
    values: dict[str, npt.NDArray[Any]] = {"bias": bias, "mantissa": mantissa, "shift": shift}
    words = np.zeros((len(bias), isa.PARAM_LANE_WORDS), np.uint32)
    for f in isa.PARAM:
        words[:, f.word] |= (values[f.name].astype(np.int64) << f.lsb & f.mask).astype(np.uint32)
    return words
