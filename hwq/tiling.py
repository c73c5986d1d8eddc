"""Which part of activation memory every tensor of an array part occupies.

A *buffer* holds one tensor as rows of pixels of channels (NHWC) with physical halos: padding pixels that the
convolutions reading it need, filled with one value, so that addressing is affine. The pixels right of a row and left
of the next are the same bytes. Buffers whose lifetimes don't meet share memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
        Operators of the part between which the buffer is in use.
    address : int
        Set by `place`.
    """

    name: str
    shape: tuple[int, int, int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: int | None = None
    first: int = 0
    last: int = 0
    address: int = field(default=-1)

    @property
    def row_pitch(self) -> int:
        """Distance of rows [byte]."""
        _, _, columns, channels = self.shape
        return (columns + max(self.pads[1], self.pads[3])) * channels

    @property
    def origin(self) -> int:
        """Offset of the first pixel that isn't halo [byte]."""
        return self.pads[0] * self.row_pitch + self.pads[1] * self.shape[3]

    @property
    def image_bytes(self) -> int:
        """Size of one image with its halo [byte]."""
        _, rows, columns, channels = self.shape
        return self.origin + (rows - 1 + self.pads[2]) * self.row_pitch + (columns + self.pads[3]) * channels

    @property
    def size_bytes(self) -> int:
        """Size of the buffer [byte]."""
        return self.shape[0] * self.image_bytes

    def view(self) -> View:
        """Return the stored pixels as (images, rows, columns, channels)."""
        strides = (self.image_bytes, self.row_pitch, self.shape[3], 1)
        return View(self.address + self.origin, self.shape, strides)

    def halo(self) -> list[View]:
        """Return rectangles of bytes that together are the halo."""
        if not any(self.pads):
            return []
        images, rows, columns, channels = self.shape
        base, pitch, line = self.address, self.row_pitch, columns * channels
        gap = pitch - line
        end = self.origin + (rows - 1) * pitch + line
        image = (self.image_bytes, 1)
        spans = [
            View(base, (images, self.origin), image),
            View(base + end, (images, self.image_bytes - end), image),
            View(base + self.origin + line, (images, rows - 1, gap), (self.image_bytes, pitch, 1)),
        ]
        return [span for span in spans if all(span.shape)]


def place(buffers: Sequence[Buffer], config: ArrayConfig, *, reserved_bytes: int, part: str) -> None:
    """Give every buffer an address below ``act_bytes - reserved_bytes``, first fit by falling size.

    Raises
    ------
    CapacityError
        Where the buffers alive at one operator don't fit.
    """
    limit = config.act_bytes - reserved_bytes
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
            need = address + buffer.size_bytes + reserved_bytes
            raise CapacityError(
                f"{part}: tensor {buffer.name!r} needs activation memory up to byte {need}, arch {config.name!r} has "
                f"{config.act_bytes} (act_bytes); choose an arch with more"
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
