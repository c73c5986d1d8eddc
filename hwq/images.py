"""Contents of the accelerator's memories, collected layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq import fixed, isa, timing, weights
from hwq.config import ArrayConfig
from hwq.errors import CapacityError
from hwq.staircase import Truncation
from hwq.weights import BYTES, Form, Storage

IDENTITY = {"bias": 0, "mantissa": 1 << (fixed.MULTIPLIER_BITS - 1), "shift": fixed.MULTIPLIER_BITS - 1}
"""Parameters that requantize every accumulator in -128..127 to itself; they fill parameter word 0."""


@dataclass
class Images:
    """Program, parameter and weight memory under construction.

    Members
    -------
    config : ArrayConfig
    storage : Storage
        How operators' weights are to be stored.
    compact : bool
        Whether layers are to take little memory rather than few cycles.
    shared : bool
        Whether to keep equal weights, and equal parameters, of different layers once.
    nested : bool
        Whether layers write what is concatenated straight into its place; else it is copied there.
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
    storage: Storage = field(default_factory=Storage)
    compact: bool = False
    shared: bool = False
    nested: bool = True
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
        words = 1 if self.config.vector else self.config.depthwise_cols // self.config.lanes  # what `mesh_copy` takes
        self.params += [np.tile(np.array(lane, np.uint32), (self.config.lanes, 1))] * words

    def cycles(self) -> int:
        """Return the cycles of the descriptors, every run of them from start to done."""
        complete = [isa.complete(d) for d in self.descriptors]
        total, first = 0, 0
        for slot, d in enumerate(complete):
            if d["opcode"] == isa.Opcode.HALT:
                total += timing.predict(complete[first : slot + 1], self.config).total
                first = slot + 1
        return total

    def forms(self, name: str, matrix: npt.NDArray[np.int8], depthwise: bool = False, tap: int = 0) -> list[Form]:
        """Return how weights (K, channels) of operator `name` may be stored, the one to be preferred first.

        Where taps of `tap` steps have scales, that is the form which takes the least memory.
        """
        config, wanted = self.config, self.storage.of(name)
        if tap:
            forms = [Form(tap=tap)]
            if config.codebooks and wanted != "int8":
                forms.append(Form(codebook=weights.fitting_codebook(matrix, config.cols), tap=tap))
            if config.int4 and wanted != "int8" and weights.fits_int4(matrix, config.cols, config.cols):
                forms.append(Form(int4=1, tap=tap))
            return [min(forms, key=lambda form: self._words(matrix, config.cols, form))]
        width, int4_width = (config.depthwise_cols,) * 2 if depthwise else (config.cols, 2 * config.cols)
        forms = [BYTES]
        if config.codebooks and (wanted == "codebook" or (wanted == "auto" and self.compact)):
            form = Form(codebook=weights.fitting_codebook(matrix, width))
            if self._words(matrix, width, form) < self._words(matrix, width, BYTES):
                forms.insert(0, form)
        if config.int4 and wanted != "int8" and weights.fits_int4(matrix, int4_width, config.cols):
            forms.insert(0, Form(int4=1))
        return forms

    def may_pack_inputs(self, name: str) -> bool:
        """Return whether operator `name` may read activations of 4 bits, and multiply them by such weights."""
        return self.storage.of(name) == "auto"

    def add_descriptor(self, fields: dict[str, int], label: str) -> int:
        """Append a descriptor and return its slot."""
        slot = len(self.descriptors)
        for name in sorted(isa.COUNTS & fields.keys()):
            self._fits(f"field {name} of a descriptor", "count_bits", fields[name], self.config.most_counted, label)
        most = (1 << self.config.pixel_bits) - 1
        self._fits("field pixels of a descriptor", "count_bits", fields.get("pixels", 0), most, label)
        self._fits("program slots", "slots", slot + 1, self.config.slots, label)
        self.descriptors.append(fields)
        self.labels.append(label)
        return slot

    def add_params(self, sets: npt.NDArray[np.uint32], label: str, width: int) -> int:
        """Append a parameter set a channel, `lanes` to a word, each block of `width` beginning one; return the first.

        Parameters
        ----------
        sets : uint32 (channels, PARAM_LANE_WORDS)
            As `rounding_params` or `truncating_params` returns them.
        """
        config, first, channels = self.config, len(self.params), len(sets)
        blocks = -(-channels // width)
        padded = np.zeros((blocks * width, isa.PARAM_LANE_WORDS), np.uint32)
        padded[:channels] = sets
        words = -(-channels // config.lanes)
        if (known := self._same("params", width, sets, first)) is not None:
            return known
        self._fits("parameter memory", "param_words", first + words, config.param_words, label)
        self.params += list(padded.reshape(-1, config.lanes, isa.PARAM_LANE_WORDS)[:words])
        return first

    def add_lane_params(self, sets: npt.NDArray[np.uint32], label: str) -> int:
        """Append one parameter word, a set for each lane; return its index."""
        self._fits("parameter memory", "param_words", len(self.params) + 1, self.config.param_words, label)
        self.params.append(sets)
        return len(self.params) - 1

    def add_weights(
        self,
        matrix: npt.NDArray[np.int8],
        label: str,
        width: int,
        form: Form = BYTES,
        scales: npt.NDArray[np.uint8] | None = None,
    ) -> int:
        """Append a (K, channels) matrix in blocks of `width` channels (see `hwq.weights`); return the first word.

        Parameters
        ----------
        scales : uint8 (K / form.tap, channels) or None
            Of the taps, where the form has them.
        """
        config, first = self.config, self._weight_words
        stored = matrix if scales is None else np.concatenate([matrix, scales.view(np.int8)])
        if (known := self._same(f"weights {form}", width, stored, first)) is not None:
            return known
        need = self._words(matrix, width, form)
        self._fits("weight memory", "weight_words", first + need, config.weight_words, label)
        self.weights.append(weights.pack_layer(matrix, width, config.cols, form, scales))
        self._weight_words += need
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

    def _words(self, matrix: npt.NDArray[np.int8], width: int, form: Form) -> int:
        """Return the weight words that `add_weights` takes."""
        depth, channels = matrix.shape
        blocks, last = -(-channels // width), (channels - 1) % width + 1
        return weights.layer_words(depth, blocks, width, last, self.config.cols, form)

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


def rounding_params(bias: npt.NDArray[np.int32], multiplier: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return the parameters of each channel as `isa.PARAM` packs them, (channels, PARAM_LANE_WORDS)."""
    mantissa, shift = fixed.encode_multiplier(multiplier)
    return _packed(isa.PARAM, {"bias": bias, "mantissa": mantissa, "shift": shift})


def truncating_params(channels: Sequence[Truncation]) -> npt.NDArray[np.uint32]:
    """Return the parameters of each channel as `isa.TRUNCATE_PARAM` packs them, (channels, PARAM_LANE_WORDS)."""
    values = {name: np.array([getattr(c, name) for c in channels]) for name in ("bias", "offset", "mantissa", "shift")}
    low_bits = next(field.width for field in isa.TRUNCATE_PARAM if field.name == "offset_low")
    high, low = np.divmod(values.pop("offset"), 1 << low_bits)
    return _packed(isa.TRUNCATE_PARAM, values | {"offset_low": low, "offset_high": high})


def _packed(fields: Sequence[isa.Field], values: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint32]:
    words = np.zeros((len(values["bias"]), isa.PARAM_LANE_WORDS), np.uint32)
    for f in fields:
        if f.name in values:
            words[:, f.word] |= (values[f.name].astype(np.int64) << f.lsb & f.mask).astype(np.uint32)
    return words
