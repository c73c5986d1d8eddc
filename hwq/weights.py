"""How weights lie in weight memory: as bytes, as 4-bit ones, or as indices into a codebook, two a byte.

Step k of the mesh multiplies by a word of `cols` weights, and a block of channels is K steps. As bytes it takes K
words. Of 4-bit weights (`int4` in a descriptor) there are two forms, by the channels of the block:

- more than `cols`, a *paired* block, K words: byte c has channel c in its low half and channel c + cols in its high
  half, and column c computes both in one step, in accumulators of `PAIR_BITS`;
- up to `cols`, ceil(K / 2) words: byte c has step 2j in its low half and step 2j + 1 in its high half.

Indices (`codebook` in a descriptor) have the second form, in blocks of up to `cols` channels. A *book* of
`isa.BOOK_ENTRIES` int8 weights lies before the first block, or before each: entry e is byte e % cols of its word
e // cols.

With activations of 4 bits as well (`ifm_int4`) a step takes a byte of two channels, 2j in its low half and 2j + 1 in
its high half, and a weight byte has the weights of both the other way round, as one multiplication of the two bytes
needs them. Such layers lie in memory as bytes do.

Where taps have scales (`scaled`), the weights of a block are those of its taps, each by itself in one of the unpaired
forms, after a word that holds the channels' scales. A book comes before the first of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hwq import isa

Array = npt.NDArray[np.int8]
Scales = npt.NDArray[np.uint8]

PAIR_BITS = 24
"""Width of each of the two accumulators of a paired column; they wrap."""

TAP_BITS = 24
"""Width of the sum that a tap's scale multiplies; it wraps."""

MAX_TAP = 256
"""Steps of the longest tap whose sums `TAP_BITS` hold whatever its operands."""

SCALE_MAX = 255
"""Largest scale of a tap."""

NF4 = np.array([-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127], np.int16)
"""The 4-bit NormalFloat of QLoRA (Dettmers et al., 2023) in steps of 1/127 of a block's largest magnitude."""


@dataclass(frozen=True)
class Form:
    """How a layer's weights are stored; bytes where all are 0.

    Members
    -------
    int4, codebook : int
        The descriptor's fields of these names.
    tap : int
        Steps of a tap where taps have scales, else 0.
    """

    int4: int = 0
    codebook: int = isa.Codebook.NONE
    tap: int = 0

    @classmethod
    def of(cls, d: Mapping[str, int]) -> Form:
        """Return the form that descriptor `d` names."""
        return cls(d["int4"], d["codebook"], d["span"] if d["scaled"] else 0)

    def fields(self) -> dict[str, int]:
        """Return the descriptor's fields."""
        return {"int4": self.int4, "codebook": int(self.codebook), "scaled": int(self.tap > 0)}

    @property
    def halves(self) -> int:
        """1 if two weights share a byte, else 0."""
        return int(self.int4 or self.codebook > 0)


BYTES = Form()

STORAGES = ("auto", "int8", "codebook")
"""Names of how weights may be stored; see `hwq.compile`."""


@dataclass(frozen=True)
class Storage:
    """How the operators' weights are to be stored: one of `STORAGES`, by name what `named` says, else `default`."""

    default: str = "auto"
    named: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """Return how those of operator `name` are to be stored."""
        return self.named.get(name, self.default)


def is_paired(channels: int, cols: int) -> bool:
    """Return whether an `int4` block of `channels` channels has two on every column."""
    return channels > cols


def has_book(codebook: int, block: int) -> bool:
    """Return whether a book lies before the block of that index."""
    return codebook == isa.Codebook.BLOCK or (codebook == isa.Codebook.LAYER and block == 0)


def book_words(cols: int) -> int:
    """Return the weight words of a book."""
    return -(-isa.BOOK_ENTRIES // cols)


def block_words(depth: int, channels: int, cols: int, halves: int) -> int:
    """Return the weight words of a block of `channels` channels and `depth` steps, its book aside.

    Parameters
    ----------
    halves : int
        1 if two weights share a byte, else 0.
    """
    return depth if not halves or is_paired(channels, cols) else -(-depth // 2)


def layer_words(depth: int, blocks: int, width: int, last_channels: int, cols: int, form: Form) -> int:
    """Return the weight words of `blocks` blocks of `width` channels, `last_channels` in the last."""
    taps, steps = (depth // form.tap, form.tap) if form.tap else (1, depth)
    full, last = (
        taps * ((form.tap > 0) + block_words(steps, channels, cols, form.halves)) for channels in (width, last_channels)
    )
    books = sum(has_book(form.codebook, block) for block in range(blocks)) * book_words(cols)
    return books + (blocks - 1) * full + last


def fits_int4(matrix: Array, width: int, cols: int) -> bool:
    """Return whether the weights (K, channels) can be `int4` in blocks of `width` channels.

    All of them must lie in -8..7, and no sum of a paired block may leave its `PAIR_BITS`, whatever the activations.
    """
    return has_int4(matrix) and (not is_paired(min(width, matrix.shape[1]), cols) or has_short_sums(matrix, -128))


def has_int4(weights: npt.NDArray[np.integer]) -> bool:
    """Return whether all weights lie in -8..7."""
    return int(weights.min()) >= -8 and int(weights.max()) <= 7


def has_short_sums(matrix: npt.NDArray[np.integer], least: int) -> bool:
    """Return whether sums with weights (K, channels) fit in `PAIR_BITS`, whatever activations from `least` on up."""
    return -least * int(np.abs(matrix.astype(np.int64)).sum(0).max()) < 1 << (PAIR_BITS - 1)


def fitting_codebook(matrix: Array, width: int) -> isa.Codebook:
    """Return which books the weights (K, channels) fit in blocks of `width` channels; NONE where a block has too many.

    A book holds `isa.BOOK_ENTRIES` different ones.
    """
    if len(np.unique(matrix)) <= isa.BOOK_ENTRIES:
        return isa.Codebook.LAYER
    blocks = (matrix[:, first : first + width] for first in range(0, matrix.shape[1], width))
    fits = all(len(np.unique(block)) <= isa.BOOK_ENTRIES for block in blocks)
    return isa.Codebook.BLOCK if fits else isa.Codebook.NONE


def pack_layer(matrix: Array, width: int, cols: int, form: Form, scales: Scales | None = None) -> Array:
    """Return the weight words (n, cols) of a layer (K, channels) in blocks of `width` channels.

    `scales` (K / form.tap, channels) are its taps', where the form has them.
    """
    out, book = [], np.unique(matrix)
    for index, first in enumerate(range(0, matrix.shape[1], width)):
        block = matrix[:, first : first + width]
        if form.codebook == isa.Codebook.BLOCK:
            book = np.unique(block)
        if has_book(form.codebook, index):
            out.append(np.zeros((book_words(cols), cols), np.int8))
            out[-1].reshape(-1)[: len(book)] = book
        if form.codebook:
            block = np.searchsorted(book, block).astype(np.int8)
        for tap, steps in enumerate(_taps(form, len(block))):
            if scales is not None:
                out.append(np.zeros((1, cols), np.int8))
                out[-1][0, : block.shape[1]] = scales[tap, first : first + width].view(np.int8)
            out.append(pack(block[steps], cols, form.halves))
    return np.concatenate(out)


def unpack_layer(words: Array, depth: int, channels: int, width: int, cols: int, form: Form) -> tuple[Array, Scales]:
    """Return the layer (depth, channels), and the scales (taps, channels), that `pack_layer` made `words` of."""
    taps = _taps(form, depth)
    matrix, scales = np.empty((depth, channels), np.int8), np.empty((len(taps) if form.tap else 0, channels), np.uint8)
    book, first = words[:0].reshape(-1), 0
    for index, channel in enumerate(range(0, channels, width)):
        count = min(width, channels - channel)
        if has_book(form.codebook, index):
            book = words[first : first + book_words(cols)].reshape(-1)
            first += book_words(cols)
        own = slice(channel, channel + count)
        for tap, steps in enumerate(taps):
            if form.tap:
                scales[tap, own] = words[first, :count].view(np.uint8)
                first += 1
            length = steps.stop - steps.start
            end = first + block_words(length, count, cols, form.halves)
            block = unpack(words[first:end], length, count, cols, form.halves)
            matrix[steps, own] = book[block & isa.BOOK_ENTRIES - 1] if form.codebook else block
            first = end
    return matrix, scales


def _taps(form: Form, depth: int) -> list[slice]:
    """Return the runs of a block's steps that lie together."""
    length = form.tap or depth
    return [slice(first, first + length) for first in range(0, depth, length)]


def pack(block: Array, cols: int, halves: int) -> Array:
    """Return the weight words (n, cols) of one block (K, channels), as bytes or, where `halves` is 1, two a byte."""
    depth, channels = block.shape
    both = np.zeros((2, block_words(depth, channels, cols, halves), cols), np.int8)
    if not halves:
        both[0, :, :channels] = block
        return both[0]
    if is_paired(channels, cols):
        both[0] = block[:, :cols]
        both[1, :, : channels - cols] = block[:, cols:]
    else:
        both[0, :, :channels] = block[0::2]
        both[1, : depth // 2, :channels] = block[1::2]
    return both[0] & 15 | both[1] << 4


def unpack(words: Array, depth: int, channels: int, cols: int, halves: int) -> Array:
    """Return the block (depth, channels) that `pack` made `words` of."""
    if not halves:
        return words[:depth, :channels]
    low, high = words << 4 >> 4, words >> 4
    if is_paired(channels, cols):
        return np.concatenate([low, high], axis=1)[:depth, :channels]
    return np.stack([low, high], axis=1).reshape(-1, cols)[:depth, :channels]


def dot_bytes(weights: npt.NDArray[np.int16], axis: int) -> npt.NDArray[np.int16]:
    """Return weights of 4 bits as bytes of two neighbours along `axis`, for `ifm_int4`; a spare one is 0."""
    along = np.moveaxis(weights, axis, 0)
    if len(along) % 2:
        along = np.concatenate([along, np.zeros_like(along[:1])])
    return np.moveaxis(along[0::2] << 4 | along[1::2] & 15, 0, axis)


def dot_weights(matrix: Array) -> Array:
    """Return the weights (2 K, channels), in the order of the activations, of a matrix (K, channels) of `dot_bytes`."""
    return np.stack([matrix >> 4, matrix << 4 >> 4], axis=1).reshape(-1, matrix.shape[1])
