"""Sizes of one accelerator, declared once; the digest travels in every Program and in a hardware register.

An architecture is a preset's name or a TOML or JSON file with the fields of `ArrayConfig`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwq import isa
from hwq.errors import ArchError


@dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """An output-stationary array of `rows` pixels by `cols` channels and its memories.

    Members
    -------
    name : str
        For messages and reports; not part of the digest.
    rows : int
        Output pixels computed at once, 1..64.
    cols : int
        Output channels computed at once, 1..64.
    fetch_bytes : int
        Bytes activation memory delivers a cycle, a power of two in 4..64.
    lanes : int
        Results written a cycle, a power of two that divides `cols`, at most `fetch_bytes`.
    act_bytes : int
        Activation memory [byte], a multiple of `fetch_bytes`, at most 2**24.
    weight_words : int
        Weight memory [words of `cols` bytes], at most 2**20.
    param_words : int
        Parameter memory [words of `lanes` channels], at most 2**16.
    slots : int
        Descriptor slots of program memory, 2..4096.
    tables : int
        Tables of 256 entries in the output path, 0..16.
    weight_bits : int
        Narrowest weights [bit], 8 or 4. With 4, a layer of such weights has two in every byte of weight memory and
        computes two output channels on every multiplier.
    codebooks : int
        1 if layers may have weights that are indices into a codebook of 16 int8 ones, two a byte, else 0.
    block_scales : int
        1 if every tap of a convolution or matrix product may have scales of its own, one a channel, else 0.
    sum_bytes : int
        1 if a layer may write its sums as they are, a byte at a time, for the host to put together, else 0.
    act_bits : int
        Narrowest activations [bit], 8 or 4. With 4, a layer of such activations and weights has two channels in every
        byte of either and multiplies both on one multiplier; needs `weight_bits` 4 and two `lanes`.
    act_ports : int
        Ports of activation memory: 2, one that reads and one that writes, at any byte address; or 1, which does one or
        the other, at even addresses. With 1, results wait in a queue and go to memory between two passes of reads.

    adder : int
        1 where the output path has an adder for a second operand; 0 where not, and Add, Sub and Mul run on the host.
    vector : int
        1 where there is a vector unit; 0 where not: MaxPool runs on the host, averages and copies on the mesh. An adder
        needs one.
    sum_bits : int
        Bits of a sum on the mesh, 24..32; less than 32 with `weight_bits` 8 and no `block_scales`. Layers whose sums
        may need more run on the host.
    count_bits : int
        Bits kept of a descriptor's `hwq.isa.COUNTS`, 8..16: a layer has at most so many pixels in a row, taps in either
        direction, bytes of a tap and blocks of channels.
    monitor : int
        1 where the core counts the cycles of every slot and every cause, has a watchdog and lets the host read all its
        memories; 0 where the host reads activation memory, `id`, `digest`, `status`, `pc` and `cycles` alone.
    small : int
        1 where cells count for more than the clock: sums have 24 bits with their bias, layers that may need more, or
        round down, run on the host, a layer has fewer than ``16 << count_bits`` pixels, and a tile takes a cycle more;
        0 where not. Needs `act_ports` 1, `sum_bits` 24, 8 PEs, no vector unit, no tables and no `sum_bytes`.

    parity : int
        1 where every byte of activation, weight, parameter and program memory has a parity bit, and reading one that
        doesn't match stops the core with `hwq.isa.ErrorCode.MEMORY_PARITY`, 0 where not. Needs `act_ports` 2: memories
        with one port have no bit to spare and hold anything when power comes.

    Raises
    ------
    ArchError
        On a value that breaks a rule; the message names field, value and rule.
    """

    name: str
    rows: int
    cols: int
    fetch_bytes: int
    lanes: int
    act_bytes: int
    weight_words: int
    param_words: int
    slots: int
    tables: int = 0
    weight_bits: int = 8
    codebooks: int = 0
    block_scales: int = 0
    sum_bytes: int = 0
    act_bits: int = 8
    act_ports: int = 2
    adder: int = 1
    vector: int = 1
    sum_bits: int = 32
    count_bits: int = 16
    monitor: int = 1
    small: int = 0
    parity: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            wanted = str if field.name == "name" else int
            if type(value) is not wanted:
                raise ArchError(f"{field.name} must be {'a string' if wanted is str else 'an integer'}, not {value!r}")
        self._require("rows", 1 <= self.rows <= 64, "in 1..64")
        self._require("cols", 1 <= self.cols <= 64, "in 1..64")
        power = self.fetch_bytes > 0 and self.fetch_bytes & (self.fetch_bytes - 1) == 0
        self._require("fetch_bytes", power and 4 <= self.fetch_bytes <= 64, "a power of two in 4..64")
        power = self.lanes > 0 and self.lanes & (self.lanes - 1) == 0
        fits = power and self.lanes <= self.fetch_bytes and self.cols % self.lanes == 0
        rule = f"a power of two that divides cols ({self.cols}) and is at most fetch_bytes ({self.fetch_bytes})"
        self._require("lanes", fits, rule)
        whole = self.act_bytes % self.fetch_bytes == 0
        limit = 1 << isa.ADDRESS_BITS
        rule = f"a multiple of fetch_bytes in {4 * self.fetch_bytes}..{limit}"
        self._require("act_bytes", whole and 4 * self.fetch_bytes <= self.act_bytes <= limit, rule)
        self._require("weight_words", 2 <= self.weight_words <= 1 << 20, f"in 2..{1 << 20}")
        self._require("param_words", 2 <= self.param_words <= 1 << 16, f"in 2..{1 << 16}")
        self._require("slots", 2 <= self.slots <= 4096, "in 2..4096")
        self._require("tables", 0 <= self.tables <= isa.MAX_TABLES, f"in 0..{isa.MAX_TABLES}")
        self._require("weight_bits", self.weight_bits in (4, 8), "4 or 8")
        self._require("codebooks", self.codebooks in (0, 1), "0 or 1")
        self._require("block_scales", self.block_scales in (0, 1), "0 or 1")
        self._require("sum_bytes", self.sum_bytes in (0, 1), "0 or 1")
        rule = "8, or 4 with weight_bits 4 and lanes of at least 2"
        fits = self.act_bits == 8 or (self.act_bits == 4 and self.int4 and self.lanes >= 2)
        self._require("act_bits", fits, rule)
        self._require("adder", self.adder in (0, 1), "0 or 1")
        self._require("vector", self.vector == 1 or self.vector == self.adder == 0, "1, or 0 without an adder")
        plain = self.weight_bits == 8 and self.block_scales == 0
        rule = "32, or in 24..31 with weight_bits 8 and no block_scales"
        self._require("sum_bits", self.sum_bits == 32 or (24 <= self.sum_bits < 32 and plain), rule)
        self._require("count_bits", 8 <= self.count_bits <= 16, "in 8..16")
        self._require("monitor", self.monitor in (0, 1), "0 or 1")
        small = self.fetch_bytes == 4 and self.lanes == 1 and self.cols in (2, 4)
        small &= self.weight_bits == 8 and self.codebooks == 0 and self.block_scales == 0
        rule = "2, or 1 with fetch_bytes 4, lanes 1, 2 or 4 cols, weight_bits 8, no codebooks and no block_scales"
        self._require("act_ports", self.act_ports == 2 or (self.act_ports == 1 and small), rule)
        least = self.one_port and self.sum_bits == 24 and self.vector == self.tables == self.sum_bytes == 0
        least &= self.rows * self.cols >= 8  # the output path's latency
        rule = "0, or 1 with act_ports 1, sum_bits 24, 8 PEs or more, no vector unit, no tables and no sum_bytes"
        self._require("small", self.small == 0 or (self.small == 1 and least), rule)
        checkable = self.parity == 0 or (self.parity == 1 and not self.one_port)
        self._require("parity", checkable, "0, or 1 with act_ports 2")

    def _require(self, field: str, condition: bool, rule: str) -> None:
        if not condition:
            raise ArchError(f"arch {self.name!r}: {field} must be {rule}, not {getattr(self, field)!r}")

    @property
    def groups(self) -> int:
        """Lane groups in a block of `cols` channels."""
        return self.cols // self.lanes

    @property
    def int4(self) -> bool:
        """Whether layers may have weights of 4 bits."""
        return self.weight_bits == 4

    @property
    def act_int4(self) -> bool:
        """Whether layers may have activations of 4 bits."""
        return self.act_bits == 4

    @property
    def one_port(self) -> bool:
        """Whether reads and writes of activation memory take turns, at even addresses."""
        return self.act_ports == 1

    @property
    def counters(self) -> tuple[str, ...]:
        """Registers that count cycles since the last start."""
        names = (register.name for register in isa.REGISTERS if register.name.startswith("cycles"))
        return tuple(names) if self.monitor else ("cycles",)

    @property
    def most_counted(self) -> int:
        """The largest value of a descriptor's counts."""
        return (1 << self.count_bits) - 1

    @property
    def pixel_bits(self) -> int:
        """Bits kept of a descriptor's pixels."""
        return min(self.address_bits, self.count_bits + 4) if self.small else self.address_bits

    @property
    def overlaps(self) -> bool:
        """Whether a layer may begin ahead of the last result of the one before it, and its descriptor is read ahead."""
        return not self.one_port

    @property
    def address_bits(self) -> int:
        """Bits kept of an address of activation memory: one more than the memory needs."""
        return min(isa.ADDRESS_BITS, (self.act_bytes - 1).bit_length() + 1)

    @property
    def weight_address_bits(self) -> int:
        """Bits kept of an address of weight memory."""
        return (self.weight_words - 1).bit_length() + 1

    @property
    def param_address_bits(self) -> int:
        """Bits kept of an address of parameter memory."""
        return (self.param_words - 1).bit_length() + 1

    def kept_bits(self, field: isa.Field) -> int:
        """Return the low bits of a descriptor's field that the array keeps, 0 for what it hasn't."""
        strips = field.name in isa.STRIPS or (field.name == "res_x_step" and not self.adder)
        missing = (
            (field.name in isa.ADDER and not self.adder and field.name != "res_x_step")
            or (strips and not self.strip_columns)
            or (field.name == "table" and not self.tables)
            or (field.name == "int4" and not self.int4)
            or (field.name == "codebook" and not self.codebooks)
            or (field.name == "scaled" and not self.block_scales)
            or (field.name in ("bytewise", "byte") and not self.sum_bytes)
            or (field.name in ("ifm_int4", "ofm_int4") and not self.act_int4)
            or (field.name == "early" and not self.overlaps)
            or (field.name == "truncate" and self.small)
        )
        sizes = {"weight_base": self.weight_address_bits, "param_base": self.param_address_bits}
        sizes["last_channels"] = self.widest_block.bit_length()
        sizes |= dict.fromkeys(isa.COUNTS, self.count_bits)
        if field.width == isa.ADDRESS_BITS:
            sizes.setdefault(field.name, self.address_bits)
        sizes["pixels"] = self.pixel_bits
        return 0 if missing else min(field.width, sizes.get(field.name, field.width))

    def legal_masks(self) -> list[int]:
        """Return, for each word of a descriptor, the bits that may be set: of addresses those that are kept."""
        kept = [(field, self.kept_bits(field)) for field in isa.DESCRIPTOR]
        wide = [dataclasses.replace(f, width=f.width if f.signed and bits else bits) for f, bits in kept]
        return isa.word_masks(wide, isa.DESCRIPTOR_WORDS)

    @property
    def grain(self) -> int:
        """What the addresses of pixels are multiples of [byte]."""
        return 2 if self.one_port else 1

    @property
    def widest_block(self) -> int:
        """Channels of the widest block a layer may have."""
        return 2 * self.cols if self.int4 else self.cols

    def block_channels(self, d: Mapping[str, int]) -> int:
        """Return the channels of a full block of descriptor `d`."""
        if d["opcode"] == isa.Opcode.CONV:
            return 2 * self.cols if d["int4"] and not d["scaled"] else self.cols
        return self.depthwise_cols if d["opcode"] == isa.Opcode.DEPTHWISE else self.lanes

    @property
    def depthwise_cols(self) -> int:
        """Channels a depthwise layer computes at once: those a fetch delivers, on at most `cols` columns."""
        return min(self.cols, self.fetch_bytes)

    @property
    def strip_columns(self) -> int:
        """Output columns a depthwise layer computes at once in strips of two rows, 0 on arrays that can't.

        Every pair of mesh rows takes a column; a kernel three columns wide must fit, the output path must drain a tile
        in the time the next one is streamed, and activation memory must be free to take it.
        """
        columns = self.rows // 2
        fits = self.rows % 2 == 0 and columns >= 3 and self.groups <= 2 and self.lanes <= self.rows
        fits = fits and not self.one_port
        return columns if fits else 0

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates a cycle at full rate, of 8-bit weights."""
        return self.rows * self.cols

    @property
    def residual_passes(self) -> int:
        """Fetches of `fetch_bytes` that hold one pixel's block of second operands."""
        return -(-self.widest_block // self.fetch_bytes)

    @property
    def parity_bits(self) -> int:
        """Size of what `parity` adds to the memories [bit]."""
        words = self.slots * isa.SLOT_WORDS + self.param_words * self.lanes * isa.PARAM_LANE_WORDS
        return self.parity * (self.act_bytes + self.weight_words * self.cols + 4 * words)

    @property
    def weight_stride_bytes(self) -> int:
        """Distance of weight memory words on the bus [byte], a power of two."""
        return max(4, 1 << (self.cols - 1).bit_length())

    @property
    def param_stride_bytes(self) -> int:
        """Distance of parameter memory words on the bus [byte], a power of two."""
        return 1 << (4 * isa.PARAM_LANE_WORDS * self.lanes - 1).bit_length()

    def digest(self) -> str:
        """Return 64 hexadecimal digits that name every field but `name`, and the instruction set's layout."""
        sizes = {key: value for key, value in dataclasses.asdict(self).items() if key != "name"}
        if not self.parity:  # arrays without it are older than the field
            del sizes["parity"]
        layout = [dataclasses.astuple(field)[:5] for field in (*isa.DESCRIPTOR, *isa.PARAM, *isa.TRUNCATE_PARAM)]
        text = json.dumps([sizes, layout], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON or TOML."""
        return dataclasses.asdict(self)


KIB = 1024

PRESETS: dict[str, ArrayConfig] = {
    preset.name: preset
    for preset in (
        ArrayConfig(
            name="sim-4x4", rows=4, cols=4, fetch_bytes=4, lanes=1,
            act_bytes=1024 * KIB, weight_words=256 * KIB, param_words=8192, slots=512, tables=4,
            weight_bits=4, codebooks=1, block_scales=1, sum_bytes=1,
        ),
        ArrayConfig(
            name="ice40-4x4", rows=4, cols=4, fetch_bytes=4, lanes=1,
            act_bytes=64 * KIB, weight_words=16 * KIB, param_words=1024, slots=16, act_ports=1, adder=0,
            vector=0, sum_bits=24, count_bits=8, monitor=0, small=1,
        ),
        ArrayConfig(
            name="ecp5-4x4", rows=4, cols=4, fetch_bytes=4, lanes=1,
            act_bytes=48 * KIB, weight_words=8 * KIB, param_words=1024, slots=32, tables=4,
            weight_bits=4,
        ),
        ArrayConfig(
            name="gowin-4x4", rows=4, cols=4, fetch_bytes=4, lanes=1,
            act_bytes=32 * KIB, weight_words=15 * KIB // 2, param_words=1024, slots=32, tables=4,
        ),
        ArrayConfig(
            name="ecp5-8x8", rows=8, cols=8, fetch_bytes=8, lanes=2,
            act_bytes=96 * KIB, weight_words=10 * KIB, param_words=512, slots=64, tables=4,
            weight_bits=4,
        ),
        ArrayConfig(
            name="ecp5-8x16", rows=8, cols=16, fetch_bytes=16, lanes=8,
            act_bytes=96 * KIB, weight_words=16 * KIB + 512, param_words=512, slots=64, tables=4,
            weight_bits=4, codebooks=1, act_bits=4,
        ),
        ArrayConfig(
            name="sim-16x16", rows=16, cols=16, fetch_bytes=16, lanes=8,
            act_bytes=1024 * KIB, weight_words=64 * KIB, param_words=2048, slots=512, tables=4,
            weight_bits=4, codebooks=1, block_scales=1, act_bits=4,
        ),
    )
}  # fmt: skip
"""Architectures known by name."""


def load_arch(arch: str | Path | ArrayConfig) -> ArrayConfig:
    """Return the architecture named by a preset, a TOML or JSON file, or an `ArrayConfig` itself.

    A file holds the members of `ArrayConfig`; `name` defaults to the file's stem, `weight_bits` and `act_bits` to 8,
    `tables`, `codebooks`, `block_scales`, `sum_bytes`, `small` and `parity` to 0, `act_ports` to 2, `adder`, `vector`
    and `monitor` to 1, `sum_bits` to 32 and `count_bits` to 16.

    Raises
    ------
    ArchError
        On a name that is neither preset nor file, a file that doesn't parse, an unknown, missing or bad field.
    """
    if isinstance(arch, ArrayConfig):
        return arch
    if str(arch) in PRESETS:
        return PRESETS[str(arch)]
    path = Path(arch)
    if path.suffix not in (".toml", ".json"):
        near = difflib.get_close_matches(str(arch), PRESETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"presets are {', '.join(PRESETS)}"
        raise ArchError(f"No architecture {str(arch)!r}; {hint} (an architecture file ends in .toml or .json)")
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ArchError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ArchError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(values, dict):
        raise ArchError(f"{path}: must hold a table of fields, not {type(values).__name__}")
    fields = dataclasses.fields(ArrayConfig)
    names = {field.name for field in fields}
    values = {"name": path.stem} | values
    for key in values:
        if key not in names:
            raise ArchError(f"{path}: unknown field {key!r}; the fields are {', '.join(sorted(names))}")
    missing = sorted(
        field.name for field in fields if field.default is dataclasses.MISSING and field.name not in values
    )
    if missing:
        raise ArchError(f"{path}: missing field {', '.join(missing)}")
    try:
        return ArrayConfig(**values)
    except ArchError as error:
        raise ArchError(f"{path}: {error}") from error
