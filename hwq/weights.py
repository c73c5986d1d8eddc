"""How weights lie in weight memory: as bytes, or as 4-bit ones, two a byte.

Step k of the mesh multiplies by a word of `cols` weights, and a block of channels is K steps. As bytes it takes K
words. Of 4-bit weights (`int4` in a descriptor) there are two forms, by the channels of the block:

- more than `cols`, a *paired* block, K words: byte c has channel c in its low half and channel c + cols in its high
  half, and column c computes both in one step, in accumulators of `PAIR_BITS`;
- up to `cols`, ceil(K / 2) words: byte c has step 2j in its low half and step 2j + 1 in its high half.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int8]

PAIR_BITS = 24
"""Width of each of the two accumulators of a paired column; they wrap."""


def is_paired(channels: int, cols: int) -> bool:
    """Return whether an `int4` block of `channels` channels has two on every column."""
    return channels > cols


def block_words(depth: int, channels: int, cols: int, int4: int) -> int:
    """Return the weight words of a block of `channels` channels and `depth` steps."""
    return depth if not int4 or is_paired(channels, cols) else -(-depth // 2)


def layer_words(depth: int, blocks: int, width: int, last_channels: int, cols: int, int4: int) -> int:
    """Return the weight words of `blocks` blocks of `width` channels, `last_channels` in the last."""
    full, last = (block_words(depth, channels, cols, int4) for channels in (width, last_channels))
    return (blocks - 1) * full + last


def fits_int4(matrix: Array, width: int, cols: int) -> bool:
    """Return whether the weights (K, channels) can be `int4` in blocks of `width` channels.

    All of them must lie in -8..7, and no sum of a paired block may leave its `PAIR_BITS`, whatever the activations.
    """
    if matrix.min() < -8 or matrix.max() > 7:
        return False
    largest = 128 * np.abs(matrix.astype(np.int64)).sum(0).max()
    return not is_paired(min(width, matrix.shape[1]), cols) or int(largest) < 1 << (PAIR_BITS - 1)


def pack(block: Array, cols: int, int4: int) -> Array:
    """Return the weight words (n, cols) of one block (K, channels)."""
    depth, channels = block.shape
    halves = np.zeros((2, block_words(depth, channels, cols, int4), cols), np.int8)
    if not int4:
        halves[0, :, :channels] = block
        return halves[0]
    if is_paired(channels, cols):
        halves[0] = block[:, :cols]
        halves[1, :, : channels - cols] = block[:, cols:]
    else:
        halves[0, :, :channels] = block[0::2]
        halves[1, : depth // 2, :channels] = block[1::2]
    return halves[0] & 15 | halves[1] << 4


def unpack(words: Array, depth: int, channels: int, cols: int, int4: int) -> Array:
    """Return the block (depth, channels) that `pack` made `words` of."""
    if not int4:
        return words[:depth, :channels]
    low, high = words << 4 >> 4, words >> 4
    if is_paired(channels, cols):
        return np.concatenate([low, high], axis=1)[:depth, :channels]
    return np.stack([low, high], axis=1).reshape(-1, cols)[:depth, :channels]
