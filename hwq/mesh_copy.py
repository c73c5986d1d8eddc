"""Copies on the mesh, for arrays without a vector unit: DEPTHWISE descriptors that multiply every byte by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hwq import isa
from hwq.config import ArrayConfig
from hwq.images import Images
from hwq.layout import Nest

Fields = dict[str, int]


def mesh_parts(nest: Nest, config: ArrayConfig) -> Iterator[Nest]:
    """Yield `nest` as loops over pixels that one block of channels holds, at addresses the array takes them from."""
    widest = config.depthwise_cols
    places = (*nest.addresses, *nest.row_strides, *nest.column_strides)
    aligned = all(place % config.grain == 0 for place in places)
    if nest.channels == 1 or (nest.channels <= widest and aligned):
        yield nest
        return
    width = 1
    while aligned and 2 * width <= widest and nest.channels % (2 * width) == 0:
        width *= 2
    along = (width,) * len(nest.addresses)
    whole = replace(nest, columns=nest.channels // width, channels=width, column_strides=along)
    if nest.columns == 1:
        yield whole
        return
    for row in range(nest.rows):
        steps = zip(nest.addresses, nest.row_strides, strict=True)
        addresses = tuple(address + row * step for address, step in steps)
        yield replace(whole, rows=nest.columns, addresses=addresses, row_strides=nest.column_strides)


def mesh_fields(nest: Nest, images: Images) -> Fields:
    """Return what the descriptor of a part needs besides its walk."""
    ones = np.ones((1, nest.channels), np.int8)
    return {
        "opcode": isa.Opcode.DEPTHWISE,
        "blocks": 1,
        "last_channels": nest.channels,
        "weight_base": images.add_weights(ones, "copy", images.config.depthwise_cols),
    }
