"""Every bit of every descriptor, parameter word and register, declared once.

The compiler encodes with `encode`, the machine decodes with `decode`, the gateware builds its layouts from the same
`Field` rows and the manual prints them with `markdown`. Standard library only.

A *descriptor* is one layer: `DESCRIPTOR_WORDS` little-endian 32-bit words in a slot of `SLOT_WORDS`. Addresses of
activation memory count bytes, those of weight and parameter memory count memory words.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ADDRESS_BITS = 24
"""Width of every address and step in a descriptor [bit]. An architecture keeps as many of an address's bits as its
memory needs, and one more; sums of addresses and steps are modulo that power of two."""

SLOT_WORDS = 32
"""Distance between descriptors in program memory [32-bit word]."""

DESCRIPTOR_WORDS = 24
"""Words of a slot that carry fields [32-bit word]; the rest of a slot isn't read."""


TABLE_ENTRIES = 256
"""Entries of a table, one for each byte it maps [byte]."""

MAX_TABLES = 16
"""Tables an architecture may have."""

BOOK_ENTRIES = 16
"""Entries of a codebook, one for each index of 4 bits [byte]."""


class Opcode(enum.IntEnum):
    """What a descriptor does."""

    HALT = 0
    """Stop: status becomes done."""
    CONV = 1
    """Multiply-accumulate on the mesh: convolution and matrix product."""
    VECTOR = 2
    """Reduce bytes of activation memory over taps: pooling, element-wise add and multiply, copy, fill."""
    DEPTHWISE = 3
    """Multiply-accumulate on the mesh, every channel with weights of its own: depthwise convolution."""


class Reduce(enum.IntEnum):
    """How a VECTOR descriptor combines the taps of one output."""

    MAX = 0
    SUM = 1


class Codebook(enum.IntEnum):
    """Which books of `BOOK_ENTRIES` int8 weights a CONV or DEPTHWISE descriptor's weights are indices into."""

    NONE = 0
    """The weights are the numbers themselves."""
    LAYER = 1
    """One book, before the first block, serves all."""
    BLOCK = 2
    """Each block of channels has its own before it."""


class ErrorCode(enum.IntEnum):
    """Why the sequencer stopped; the STATUS register holds it beside the program counter."""

    NONE = 0
    ILLEGAL_OPCODE = 1
    """The opcode isn't one of `Opcode`."""
    ILLEGAL_FIELD = 2
    """A count is zero or above its limit, fields exclude each other, or a bit that isn't a field's is set."""
    ACT_RANGE = 3
    """An activation address left the memory, or several bytes at an odd address were meant with `act_ports` 1."""
    WEIGHT_RANGE = 4
    """A weight address left the memory."""
    PARAM_RANGE = 5
    """A parameter address left the memory."""
    PC_RANGE = 6
    """The program counter ran past the last slot of program memory, which `pc` still tells."""
    WATCHDOG = 7
    """No unit made progress for WATCHDOG cycles."""
    MEMORY_PARITY = 8
    """A byte read from memory isn't what was written there; found where `parity` is 1, and also when the host reads."""


@dataclass(frozen=True)
class Field:
    """A run of bits in one 32-bit word.

    Members
    -------
    name : str
    word : int
        Index of the 32-bit word.
    lsb, width : int
        Position and size [bit].
    signed : bool
        Two's complement when set.
    nonzero : bool
        The decoder refuses 0 (`ErrorCode.ILLEGAL_FIELD`).
    doc : str
        One line for the manual.
    """

    name: str
    word: int
    lsb: int
    width: int
    signed: bool = False
    nonzero: bool = False
    doc: str = ""

    @property
    def mask(self) -> int:
        """Bits of the word that belong to the field."""
        return ((1 << self.width) - 1) << self.lsb

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest value the field holds."""
        if self.signed:
            return -(1 << (self.width - 1)), (1 << (self.width - 1)) - 1
        return 0, (1 << self.width) - 1


def _address(name: str, word: int, doc: str) -> Field:
    return Field(name, word, 0, ADDRESS_BITS, doc=doc)


def _step(name: str, word: int, doc: str) -> Field:
    return Field(name, word, 0, ADDRESS_BITS, signed=True, doc=doc)


DESCRIPTOR: tuple[Field, ...] = (
    Field("opcode", 0, 0, 8, doc="`Opcode`"),
    Field("residual", 0, 8, 1, doc="add the second operand at `res_base` after requantizing"),
    Field("reduce", 0, 9, 1, doc="VECTOR: `Reduce`"),
    Field("param_step", 0, 10, 1, doc="VECTOR: parameter words advance with the channel group; else one serves all"),
    Field("short_strip", 0, 11, 1, doc="DEPTHWISE: the last strip has one row"),
    Field("early", 0, 12, 1, doc="CONV: may begin while a CONV with no second operand and no scales still writes"),
    Field("truncate", 0, 13, 1, doc="requantize towards zero, with parameters in the second form"),
    Field("product", 0, 14, 1, doc="VECTOR: multiply by the second operand; with `residual`, `Reduce.MAX`"),
    Field("bytewise", 0, 21, 1, doc="requantize one byte of the sum, less 128, in place of the sum"),
    Field("byte", 0, 22, 2, doc="`bytewise`: which one, counted from the lowest"),
    Field("table", 0, 16, 5, doc="map the output through this table, counted from 1; 0: none"),
    _address("ifm_base", 1, "first byte of the first tap of the first pixel"),
    Field("ifm_zero_point", 1, 24, 8, signed=True, doc="with `product`, taken off the reduced taps"),
    _step("ifm_x_step", 2, "to the next pixel of a row"),
    Field(
        "ifm_int4", 2, 24, 1, doc="CONV: operand bytes hold two channels of 4 bits, weight bytes the weights of both"
    ),
    _step("ifm_y_step", 3, "from a row's last pixel to the next row's first"),
    Field("row_pixels", 4, 0, 16, nonzero=True, doc="output pixels in a row; with `strips` 2"),
    Field("strips", 4, 16, 16, doc="DEPTHWISE: strips of two output rows; 0: tiles along rows"),
    Field("pixels", 5, 0, 24, nonzero=True, doc="output pixels in all; with `strips`, in one strip"),
    Field("taps_y", 6, 0, 12, nonzero=True, doc="outer tap count"),
    Field("taps_x", 6, 16, 12, nonzero=True, doc="inner tap count"),
    Field("span", 7, 0, 16, nonzero=True, doc="CONV: contiguous bytes of one tap; DEPTHWISE: pixels"),
    Field("short_from", 7, 16, 12, doc="DEPTHWISE: inner taps from this one on have one pixel less; 0: none"),
    Field("repeats", 7, 28, 2, doc="DEPTHWISE: an inner tap is read this many times more, with weights of their own"),
    _step("tap_y_step", 8, "from the last inner tap to the next outer tap's first"),
    _step("tap_x_step", 9, "to the next inner tap"),
    _address("weight_base", 10, "CONV, DEPTHWISE: first weight word"),
    Field("int4", 10, 24, 1, doc="CONV, DEPTHWISE: weights of 4 bits, two a byte"),
    Field("codebook", 10, 25, 2, doc="CONV, DEPTHWISE: `Codebook`; the weights are indices of 4 bits, two a byte"),
    Field("scaled", 10, 27, 1, doc="CONV: a word of scales before every tap's weights multiplies the tap's sums"),
    _address("param_base", 11, "first parameter word"),
    _address("ofm_base", 12, "first output byte of the first pixel"),
    Field("ofm_int4", 12, 24, 1, doc="CONV: results of 4 bits, two channels a byte"),
    _step("ofm_x_step", 13, "to the next output pixel of a row"),
    _step("ofm_y_step", 14, "from a row's last output pixel to the next row's first"),
    Field(
        "blocks",
        15,
        0,
        16,
        nonzero=True,
        doc="blocks of channels: `cols`, with `int4` and not `scaled` twice as many; DEPTHWISE `depthwise_cols`, "
        "VECTOR `lanes`",
    ),
    Field("last_channels", 15, 16, 16, nonzero=True, doc="channels in the last block"),
    _address("res_base", 16, "first byte of the second operand"),
    Field("res_zero_point", 16, 24, 8, signed=True, doc="with `product`, taken off the second operand"),
    _step("res_x_step", 17, "to the second operand's next pixel of a row; with `strips`, to the output's next strip"),
    _step("res_y_step", 18, "from a row's last pixel of the second operand to the next row's first"),
    Field("zero_point", 19, 0, 8, signed=True, doc="added after requantizing"),
    Field("lo", 19, 8, 8, signed=True, doc="smallest requantized value: one below it becomes `lo`"),
    Field(
        "hi", 19, 16, 8, signed=True, doc="largest requantized value: one above it that isn't below `lo` becomes `hi`"
    ),
    Field("factor_a", 20, 0, 26, signed=True, doc="`residual`: factor of the requantized value"),
    Field("factor_b", 21, 0, 26, signed=True, doc="`residual`: factor of the second operand, or of the product"),
    Field("offset_low", 22, 0, 32, doc="`residual`: offset, bits 31..0"),
    Field("offset_high", 23, 0, 8, signed=True, doc="`residual`: offset, bits 39..32"),
    Field("add_shift", 23, 8, 5, doc="`residual`: right shift, round half to even"),
    Field("add_lo", 23, 16, 8, signed=True, doc="`residual`: smallest sum, as `lo`"),
    Field("add_hi", 23, 24, 8, signed=True, doc="`residual`: largest sum, as `hi`"),
)

ADDER = frozenset(
    [
        "residual",
        "product",
        "ifm_zero_point",
        "res_zero_point",
        "res_base",
        "res_x_step",
        "res_y_step",
        "factor_a",
        "factor_b",
        "offset_low",
        "offset_high",
        "add_shift",
        "add_lo",
        "add_hi",
    ]
)
"""Fields of second operands and of what adds them; an architecture without an adder has none of them."""

COUNTS = frozenset({"row_pixels", "strips", "taps_y", "taps_x", "span", "short_from", "blocks"})
"""Fields that count; an architecture may keep fewer of their bits."""

STRIPS = frozenset({"strips", "short_strip"})
"""Fields of strips."""

PARAM_LANE_WORDS = 2
"""Size of one lane's parameters [32-bit word]; a parameter memory word holds `lanes` of them."""

PARAM: tuple[Field, ...] = (
    Field("bias", 0, 0, 32, signed=True, doc="added to the accumulator, wrapping"),
    Field("mantissa", 1, 0, 24, doc="multiplier's significand M"),
    Field("shift", 1, 24, 6, doc="multiplier is M * 2**-shift"),
    Field("offset_high", 1, 30, 2, doc="`truncate`: offset, bits 11..10"),
)

TRUNCATE_PARAM: tuple[Field, ...] = (
    Field("bias", 0, 0, 22, signed=True, doc="added to the accumulator, wrapping"),
    Field("offset_low", 0, 22, 10, doc="offset, bits 9..0; added to the sum's magnitude times M, in units of 2**12"),
    *PARAM[1:],
)
"""The parameters of a descriptor with `truncate`: a shorter bias, and an offset of the product."""


class Region(enum.IntEnum):
    """Window of the 32-bit bus: bits 27..24 of the byte address."""

    CSR = 0
    PROGRAM = 1
    """Descriptors, SLOT_WORDS words each."""
    PARAM = 2
    """Parameter memory; one memory word every `ArrayConfig.param_stride_bytes`."""
    WEIGHT = 3
    """Weight memory; one memory word every `ArrayConfig.weight_stride_bytes`."""
    ACT = 4
    """Activation memory, byte for byte."""
    PROFILE = 5
    """Cycles spent in each descriptor slot, one word each, read only."""
    TABLE = 6
    """Table memory: entry i of table t, the image of output byte i - 128, is byte t * TABLE_ENTRIES + i."""


REGION_SHIFT = 24
"""Byte-address bit where the region number starts."""


@dataclass(frozen=True)
class Register:
    """A control or status register, one 32-bit word of `Region.CSR`.

    Members
    -------
    name : str
    access : str
        ``r``, ``w`` or ``rw``.
    doc : str
    """

    name: str
    access: str
    doc: str


REGISTERS: tuple[Register, ...] = (
    Register("id", "r", "0x31515748, the bytes `HWQ1`"),
    Register("digest", "r", "first 32 bits of the configuration's digest"),
    Register(
        "control", "w", "bit 0 starts at `pc`; bit 1 aborts and clears every unit, the memories keep their contents"
    ),
    Register("status", "r", "bit 0 busy, bit 1 done, bits 15..8 `ErrorCode`"),
    Register(
        "pc",
        "rw",
        "slot of the next start, modulo a power of two beyond the slots; while busy and after a stop the slot being "
        "executed",
    ),
    Register("watchdog", "rw", "cycles without progress until `ErrorCode.WATCHDOG`; 0 switches it off"),
    Register("cycles", "r", "cycles from start to done"),
    Register("cycles_mesh", "r", "cycles in which the mesh took a step"),
    Register("cycles_fetch", "r", "mesh waited for activations"),
    Register("cycles_output", "r", "mesh waited for the output path"),
    Register("cycles_vector", "r", "cycles in which the vector path read an operand"),
    Register("cycles_tail", "r", "a descriptor's last results were on their way to memory"),
    Register("cycles_setup", "r", "a descriptor was being read and decoded"),
)

ID_VALUE = 0x31515748

REGISTER_INDEX: dict[str, int] = {register.name: index for index, register in enumerate(REGISTERS)}
"""Word offset of each register in `Region.CSR`."""

CONTROL_START = 1
CONTROL_CLEAR = 2
STATUS_BUSY = 1
STATUS_DONE = 2
STATUS_ERROR_SHIFT = 8


def _check(fields: Sequence[Field], words: int) -> None:
    used = [0] * words
    for field in fields:
        if field.lsb + field.width > 32 or used[field.word] & field.mask:
            raise ValueError(f"Field {field.name!r} overlaps another or leaves its word")
        used[field.word] |= field.mask


_check(DESCRIPTOR, DESCRIPTOR_WORDS)
_check(PARAM, PARAM_LANE_WORDS)
_check(TRUNCATE_PARAM, PARAM_LANE_WORDS)


def word_masks(fields: Iterable[Field], words: int) -> list[int]:
    """Return, for each of `words` words, the bits that belong to some field; a set bit elsewhere is illegal."""
    masks = [0] * words
    for field in fields:
        masks[field.word] |= field.mask
    return masks


def encode(fields: Sequence[Field], words: int, values: Mapping[str, int]) -> list[int]:
    """Pack `values` into 32-bit words; fields that aren't named are 0.

    Raises
    ------
    ValueError
        On a name that is no field, or a value outside its field's range.
    """
    out = [0] * words
    unknown = set(values) - {field.name for field in fields}
    if unknown:
        raise ValueError(f"No such field: {', '.join(sorted(unknown))}")
    for field in fields:
        value = int(values.get(field.name, 0))
        low, high = field.range
        if not low <= value <= high:
            raise ValueError(f"Field {field.name} must be in {low}..{high}, not {value}")
        out[field.word] |= (value << field.lsb) & field.mask
    return out


def complete(values: Mapping[str, int]) -> dict[str, int]:
    """Return every field of a descriptor, those that `values` doesn't name being 0."""
    return {field.name: values.get(field.name, 0) for field in DESCRIPTOR}


def decode(fields: Sequence[Field], words: Sequence[int]) -> dict[str, int]:
    """Unpack 32-bit words into field values; bits outside every field are ignored.

    >>> decode(PARAM, encode(PARAM, 2, {"bias": -5, "mantissa": 1 << 23, "shift": 23}))
    {'bias': -5, 'mantissa': 8388608, 'shift': 23, 'offset_high': 0}
    """
    out = {}
    for field in fields:
        value = (int(words[field.word]) & field.mask) >> field.lsb
        if field.signed and value >> (field.width - 1):
            value -= 1 << field.width
        out[field.name] = value
    return out


def bus_address(region: Region, offset_bytes: int) -> int:
    """Return the byte address of `offset_bytes` in `region`'s window."""
    return (int(region) << REGION_SHIFT) | offset_bytes


def markdown(fields: Sequence[Field]) -> str:
    """Return the manual's table of `fields`."""
    rows = ["| word | bits | field | meaning |", "|---|---|---|---|"]
    for field in fields:
        sign = "signed, " if field.signed else ""
        zero = " (not 0)" if field.nonzero else ""
        rows.append(
            f"| {field.word} | {field.lsb + field.width - 1}..{field.lsb} | `{field.name}` | {sign}{field.doc}{zero} |"
        )
    return "\n".join(rows)


def register_markdown() -> str:
    """Return the manual's table of the control and status registers."""
    rows = ["| word | register | access | meaning |", "|---|---|---|---|"]
    rows += [f"| {i} | `{r.name}` | {r.access} | {r.doc} |" for i, r in enumerate(REGISTERS)]
    return "\n".join(rows)
