"""Ways to cut a convolution into parts that are one descriptor each: by groups, and by how many pixels lie abreast.

A part computes dense channels. Groups share one by weights that are zero between them; a layer with fewer channels
than the mesh has columns fills the rest with neighbouring pixels, which lie in memory as further channels do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hwq.config import ArrayConfig
from hwq.ir import BlockScales
from hwq.layout import View
from hwq.weights import has_int4


@dataclass(frozen=True)
class Part:
    """A dense convolution: some channels and columns of a layer's output.

    Members
    -------
    weight : int16 (kh, kw, inputs, channels)
        Less its zero point.
    channels : int array (channels,)
        The layer's channel that each is, for bias and multiplier.
    x, y : View (N, C, H, W)
    second : View (N, C, H, W) or None
        Second operand of the Add the layer carries.
    strides, dilations : (y, x)
    start : (y, x)
        The first pixel's first tap in `x` [pixel].
    ifm_int4 : bool
        The bytes of `x` are two inputs each, those of the weight `hwq.weights.dot_bytes`.
    ofm_int4 : bool
        The bytes of `y` are two channels each.
    block_scales : of blocks of inputs, or None
    """

    weight: npt.NDArray[np.int16]
    channels: npt.NDArray[np.intp]
    x: View
    y: View
    second: View | None
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    start: tuple[int, int] = (0, 0)
    ifm_int4: bool = False
    ofm_int4: bool = False
    block_scales: BlockScales | None = None

    def weight_words(self, config: ArrayConfig) -> int:
        """Return the weight words the part takes if it reads every tap by itself."""
        rows, columns, inputs, channels = self.weight.shape
        return rows * columns * inputs * -(-channels // config.cols)


def ways(layer: Part, groups: int, config: ArrayConfig) -> Iterator[tuple[Part, ...]]:
    """Yield the ways to compute a layer that fit weight memory and the program's slots, or else one that doesn't.

    Parameters
    ----------
    layer : Part
        Of all channels; its weight has the inputs of one group, and the groups' channels one after another.
    groups : int
        A divisor of the layer's input and output channels.
    """
    outputs = layer.weight.shape[3] // groups
    size, sizes = max(1, min(groups, config.cols // outputs)), [groups]  # fewer groups would leave columns idle
    while size < groups:
        sizes.append(size)
        size *= 2
    found = False
    for size in sorted(sizes):
        count, inputs = -(-groups // size), layer.weight[:, :, :, 0].size
        words = count * size * inputs * -(-size * outputs // config.cols)
        if found and (words > config.weight_words or count > config.slots):
            continue
        found = True
        parts = tuple(_bundle(layer, groups, first, min(size, groups - first)) for first in range(0, groups, size))
        yield parts
        if len(parts) == 1:
            yield from _abreast(parts[0], config)


def _bundle(layer: Part, groups: int, first: int, size: int) -> Part:
    """Return the part of `size` neighbouring groups from `first` on."""
    if groups == 1:
        return layer
    rows, columns, inputs, channels = layer.weight.shape
    outputs = channels // groups
    weight = np.zeros((rows, columns, size, inputs, size, outputs), np.int16)
    chosen = slice(first * outputs, (first + size) * outputs)
    of_group = layer.weight[..., chosen].reshape(rows, columns, inputs, size, outputs)
    for group in range(size):
        weight[:, :, group, :, group] = of_group[:, :, :, group]
    second = layer.second
    return replace(
        layer,
        weight=weight.reshape(rows, columns, size * inputs, size * outputs),
        channels=layer.channels[chosen],
        x=layer.x.slice(1, first * inputs, size * inputs),
        y=layer.y.slice(1, chosen.start, size * outputs),
        second=None if second is None else second.slice(1, chosen.start, size * outputs),
    )


def _abreast(part: Part, config: ArrayConfig) -> Iterator[tuple[Part, ...]]:
    """Yield the ways to compute several neighbouring pixels of a row as one, those left at its end by themselves."""
    channels, width = part.weight.shape[3], part.y.shape[3]
    apart = part.y.strides[3] << part.ofm_int4 != channels or (part.second and part.second.strides[3] != channels)
    if part.block_scales is not None or apart:
        return
    pairs = config.int4 and not part.ifm_int4 and has_int4(part.weight)
    most = config.cols * (2 if pairs else 1)  # channels of a block
    for count in range(2, min(most // math.gcd(most, channels), width) + 1):
        wide = _widened(part, count)
        if wide.weight_words(config) > config.weight_words:
            return
        left = width % count
        yield (wide, _widened(_columns(part, width - left, left), left)) if left else (wide,)


def _columns(part: Part, first: int, count: int) -> Part:
    """Return the part's output columns from `first` on."""
    return replace(
        part,
        y=part.y.slice(3, first, count),
        second=None if part.second is None else part.second.slice(3, first, count),
        start=(part.start[0], part.start[1] + first * part.strides[1]),
    )


def _widened(part: Part, count: int) -> Part:
    """Return the part with every `count` neighbouring pixels of a row as one, less those left at its end."""
    if count == 1:
        return part
    rows, columns, inputs, channels = part.weight.shape
    (down, along), (apart_y, apart_x) = part.strides, part.dilations
    reach = (columns - 1) * apart_x + 1
    weight = np.zeros((rows, reach + (count - 1) * along, inputs, count, channels), np.int16)
    for pixel in range(count):
        weight[:, pixel * along : pixel * along + reach : apart_x, :, pixel] = part.weight
    return replace(
        part,
        weight=weight.reshape(rows, -1, inputs, count * channels),
        channels=np.tile(part.channels, count),
        y=_merged(part.y, count),
        second=None if part.second is None else _merged(part.second, count),
        strides=(down, count * along),
        dilations=(apart_y, 1),
    )


def _merged(view: View, count: int) -> View:
    """Return the view with `count` neighbouring pixels of a row as the channels of one."""
    images, channels, rows, columns = view.shape
    by_image, _, by_row, by_column = view.strides
    shape = (images, count * channels, rows, columns // count)
    return View(view.address, shape, (by_image, 1, by_row, count * by_column))
