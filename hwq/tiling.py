"""Which part of activation memory every tensor of an array part occupies.

A *buffer* holds one tensor as rows of pixels of channels (NHWC) with physical halos: padding pixels that the
convolutions reading it need, filled with one value, so that addressing is affine. The pixels right of a row and left
of the next are the same bytes. Buffers whose lifetimes don't meet share memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwq import ir
from hwq.config import ArrayConfig
from hwq.errors import CapacityError
from hwq.layout import View

ALIGNMENT = 4
"""Buffers begin at multiples of this [byte], the width of the bus."""


@dataclass
class Buffer:
    """Storage of one tensor.

    Members
    -------
    name : str
        The tensor first stored here.
    shape : tuple of int
        (images, rows, columns, channels).
    pads : tuple of int
        Halo (top, left, bottom, right) [pixel].
    fill : int or None
        Signed byte the halo holds, None without one.
    first, last : int
        Steps of the part between which the buffer is in use; the host fills one with `first` -1.
    address : int
        Set by `allocate`.
    multiplier : int
        Channel c * multiplier + j lies at j * (channels / multiplier) + c; see `hwq.channel_order`.
    kept : bool
        Set by `allocate`: the halo is written once and for all, since nothing else ever uses its bytes.
    grain : int
        Pixels take a multiple of this [byte]; what follows their channels isn't read as a value.
    """

    name: str
    shape: tuple[int, int, int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: int | None = None
    first: int = 0
    last: int = 0
    address: int = -1
    multiplier: int = 1
    kept: bool = False
    grain: int = 1

    @property
    def pixel_pitch(self) -> int:
        """Distance of pixels [byte]."""
        return -(-self.shape[3] // self.grain) * self.grain

    @property
    def row_pitch(self) -> int:
        """Distance of rows [byte]."""
        return (self.shape[2] + max(self.pads[1], self.pads[3])) * self.pixel_pitch

    @property
    def origin(self) -> int:
        """Offset of the first pixel that isn't halo [byte]."""
        return self.pads[0] * self.row_pitch + self.pads[1] * self.pixel_pitch

    @property
    def image_bytes(self) -> int:
        """Size of one image with its halo [byte]."""
        _, rows, columns, _ = self.shape
        return self.origin + (rows - 1 + self.pads[2]) * self.row_pitch + (columns + self.pads[3]) * self.pixel_pitch

    @property
    def size_bytes(self) -> int:
        """Size of the buffer [byte]."""
        return self.shape[0] * self.image_bytes

    def view(self) -> View:
        """Return the stored pixels as (images, rows, columns, channels)."""
        strides = (self.image_bytes, self.row_pitch, self.pixel_pitch, 1)
        return View(self.address + self.origin, self.shape, strides)

    def halo(self) -> list[View]:
        """Return rectangles of bytes that together are the halo."""
        if not any(self.pads):
            return []
        images, rows, columns, _ = self.shape
        base, pitch, line = self.address, self.row_pitch, columns * self.pixel_pitch
        gap = pitch - line
        end = self.origin + (rows - 1) * pitch + line
        image = (self.image_bytes, 1)
        before, after = self.origin, self.image_bytes - end
        if before == after:
            around = [View(base, (images, 2, before), (self.image_bytes, end, 1))]
        else:
            around = [View(base, (images, before), image), View(base + end, (images, after), image)]
        spans = [
            *around,
            View(base + self.origin + line, (images, rows - 1, gap), (self.image_bytes, pitch, 1)),
        ]
        return [span for span in spans if all(span.shape)]


def allocate(parts: Sequence[Sequence[Buffer]], config: ArrayConfig, *, reserved_bytes: int, name: str) -> list[Buffer]:
    """Give every buffer of every part an address below ``act_bytes - reserved_bytes``.

    Buffers of one shape and halo that are never alive together share a place of their own, whose halo needs writing
    only once; the largest of these places are given up where memory is short. Parts run one after another.

    Returns
    -------
    list of Buffer
        One of those sharing each place: the halo bytes to write before the program first runs.

    Raises
    ------
    CapacityError
        Where the buffers alive at one step don't fit; `name` is the network's.
    """
    places = sorted(_places(parts), key=lambda members: -members[0][1].size_bytes)
    while True:
        top = config.act_bytes - reserved_bytes
        for members in places:
            top = (top - members[0][1].size_bytes) // ALIGNMENT * ALIGNMENT
            for _, buffer in members:
                buffer.address, buffer.kept = top, True
        try:
            for buffers in parts:
                _place([b for b in buffers if not b.kept], top, config, name)
        except CapacityError:
            if not places:
                raise
            for _, buffer in places.pop(0):
                buffer.kept = False
            continue
        return [members[0][1] for members in places]


def _places(parts: Sequence[Sequence[Buffer]]) -> list[list[tuple[int, Buffer]]]:
    """Return groups of (part, buffer) with equal shape, halo and fill, none of which are alive together."""
    groups: list[list[tuple[int, Buffer]]] = []
    for part, buffers in enumerate(parts):
        for buffer in sorted(buffers, key=lambda b: b.first):
            if buffer.fill is None or buffer.first < 0:
                continue
            for group in groups:
                same = all(getattr(group[0][1], m) == getattr(buffer, m) for m in ("shape", "pads", "fill"))
                if same and all(p != part or b.last < buffer.first for p, b in group):
                    group.append((part, buffer))
                    break
            else:
                groups.append([(part, buffer)])
    return groups


def _place(buffers: Sequence[Buffer], limit: int, config: ArrayConfig, name: str) -> None:
    """Give every buffer of one part an address below `limit`, first fit by falling size."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size_bytes, b.first, b.name)):
        others = sorted(
            (b for b in placed if b.first <= buffer.last and buffer.first <= b.last), key=lambda b: b.address
        )
        address = 0
        for other in others:
            if address + buffer.size_bytes <= other.address:
                break
            address = max(address, _align(other.address + other.size_bytes))
        buffer.address = address
        placed.append(buffer)
        if address + buffer.size_bytes > limit:
            need = address + buffer.size_bytes + config.act_bytes - limit
            raise CapacityError(
                f"Network {name!r}: tensor {buffer.name!r} needs activation memory up to byte {need}, "
                f"arch {config.name!r} has {config.act_bytes} (act_bytes); choose an arch with more",
                "act_bytes",
            )


def _align(address: int) -> int:
    return -(-address // ALIGNMENT) * ALIGNMENT


def image_shape(tensor: ir.Tensor) -> tuple[int, int, int, int]:
    """Return (images, rows, columns, channels) under which `tensor` is stored.

    A rank-4 tensor is NCHW; any other has its channels last and its remaining elements in one row.

    >>> image_shape(ir.Tensor("x", (2, 3, 4, 5), "int8", 1.0))
    (2, 4, 5, 3)
    >>> image_shape(ir.Tensor("x", (7, 10), "int8", 1.0))
    (1, 1, 7, 10)
    """
    if len(tensor.shape) == 4:
        n, c, h, w = tensor.shape
        return n, h, w, c
    channels = tensor.shape[-1] if tensor.shape else 1
    return 1, 1, tensor.size // channels, channels


def tensor_view(view: View, tensor: ir.Tensor) -> View:
    """Return a stored buffer's view (images, rows, columns, channels) as the tensor's own shape."""
    if len(tensor.shape) == 4:
        return view.transpose((0, 3, 1, 2))
    shaped = view.reshape(tensor.shape)
    assert shaped is not None, tensor
    return shaped
