"""Concatenation for free: which tensors are written straight into the one they are concatenated to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hwq import ir

Halo = tuple[tuple[int, int, int, int], int]
"""Pads (top, left, bottom, right) and the signed byte they hold."""


class Layer(Protocol):
    """What this module needs to know of a step: its operator, and the tensor it writes."""

    @property
    def op(self) -> ir.Op:
        """The operator."""
        ...

    @property
    def writes(self) -> str:
        """The tensor."""
        ...


@dataclass(frozen=True)
class Place:
    """A tensor's place: the elements from `start` on, along `axis`, of the tensor `within`."""

    within: str
    axis: int
    start: int


def nested_tensors(
    layers: Sequence[Layer],
    tensors: Mapping[str, ir.Tensor],
    halos: MutableMapping[str, Halo],
    fixed: Collection[str],
    grain: int,
) -> dict[str, Place]:
    """Return the places of all tensors that layers can write into the result of a Concat, itself nested or not.

    A tensor with a halo can lie in another along the channels, where the outermost tensor's halo becomes its own; so
    their fills must agree. The outermost tensors' `halos` grow accordingly.

    Parameters
    ----------
    layers : sequence of Layer
        In order; views aren't among the layers that write.
    tensors : mapping of str to Tensor
    halos : mapping of str to Halo
        By tensor, changed in place.
    fixed : collection of str
        Tensors that need a place of their own.
    grain : int
        Places along the channels begin at multiples of it.
    """
    views = ir.Reshape | ir.Transpose | ir.Slice | ir.Expand
    written = {layer.writes for layer in layers if not isinstance(layer.op, views)} - set(fixed)
    places: dict[str, Place] = {}
    for layer in reversed(layers):
        if not isinstance(layer.op, ir.Concat):
            continue
        start, uses = 0, Counter(layer.op.inputs)
        for name in layer.op.inputs:
            place = Place(layer.writes, layer.op.axis, start)
            shape = tensors[name].shape
            start += shape[layer.op.axis]
            if layer.op.axis == (1 if len(shape) == 4 else len(shape) - 1) and place.start % grain:
                continue
            alone = uses[name] == 1 and name in written and name not in places
            if alone and _take_halo(name, place, places, halos):
                places[name] = place
    return places


def along_channels(place: Place, places: Mapping[str, Place]) -> bool:
    """Whether a tensor at `place` spans all rows and columns of the outermost tensor."""
    return place.axis == 1 and (place.within not in places or along_channels(places[place.within], places))


def _take_halo(name: str, place: Place, places: Mapping[str, Place], halos: MutableMapping[str, Halo]) -> bool:
    """Give the outermost tensor around `place` the halo of `name`; False where it can't have it."""
    if name not in halos:
        return True
    if not along_channels(place, places):
        return False
    outermost = place.within
    while outermost in places:
        outermost = places[outermost].within
    pads, fill = halos[name]
    other, other_fill = halos.get(outermost, (pads, fill))
    if other_fill != fill:
        return False
    halos[outermost] = union(other, pads), fill
    del halos[name]
    return True


def union(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Return the least pads that contain both."""
    return (max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
