"""Amaranth layouts of what `hwq.isa` declares; no bit position is written here."""

from amaranth import Module, Shape, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from hwq import isa
from hwq.config import ArrayConfig

PIXELS = ("row_pixels", "pixels")


def field_shape(field: isa.Field) -> Shape:
    """Return the field's width and sign as an Amaranth shape."""
    return Shape(field.width, field.signed)


def field_slice(field: isa.Field, word: Value) -> Value:
    """Return the field's bits of the 32-bit `word` that holds it, with the field's sign."""
    bits = word[field.lsb : field.lsb + field.width]
    return bits.as_signed() if field.signed else bits


def descriptor_layout(config: ArrayConfig) -> data.StructLayout:
    """Return the layout of a decoded descriptor, one member a field; fields that the array hasn't are always 0.

    Counts of `PIXELS` are held less `tile_excess`: below zero once what is left fits into one tile.
    """
    shapes = {field.name: Shape(config.kept_bits(field) or field.width, field.signed) for field in isa.DESCRIPTOR}
    return data.StructLayout(shapes | {name: Shape(shapes[name].width + 1, signed=True) for name in PIXELS})


def tile_excess(config: ArrayConfig) -> int:
    """Return one pixel more than a tile of the mesh has."""
    return config.rows + 1


def held_field(config: ArrayConfig, field: isa.Field, word: Value) -> Value:
    """Return what a decoded descriptor holds of the field in the 32-bit `word`."""
    return field_slice(field, word) - (tile_excess(config) if field.name in PIXELS else 0)


def kept_fields(m: Module, config: ArrayConfig, descriptor: data.View) -> data.View:
    """Return `descriptor` with fields that the array hasn't tied to 0, which synthesis doesn't see of registers."""
    kept = Signal(descriptor_layout(config))
    m.d.comb += [kept[f.name].eq(descriptor[f.name]) for f in isa.DESCRIPTOR if config.kept_bits(f)]
    return kept


def field_width(config: ArrayConfig, name: str) -> int:
    """Return the bits of a decoded descriptor's field."""
    return Shape.cast(descriptor_layout(config)[name].shape).width


param_layout = data.StructLayout({field.name: field_shape(field) for field in isa.PARAM})
"""One lane's decoded parameters."""


class BaseControl(wiring.Signature):
    """A base address in the descriptor, which its unit moves on from block to block of channels.

    Members
    -------
    move : from the next cycle on the base is `base`
    """

    def __init__(self, shape: Shape):
        super().__init__({"move": Out(1), "base": Out(shape)})


def below(value: Value, limit: int) -> Value:
    """Return whether unsigned `value` is less than `limit`; synthesis sees no carry chain where few gates will do."""
    zeros = (limit & -limit).bit_length() - 1
    high, odd = value[zeros:], limit >> zeros
    return ~high.any() if odd == 1 else high < odd


def address_shape(config: ArrayConfig) -> Shape:
    """Return the shape of an address of activation memory."""
    return Shape(config.address_bits)


def step_shape(config: ArrayConfig) -> Shape:
    """Return the shape of a step between such addresses."""
    return Shape(config.address_bits, signed=True)


def weight_address_shape(config: ArrayConfig) -> Shape:
    """Return the shape of an address of weight memory."""
    return Shape(config.weight_address_bits)


def param_address_shape(config: ArrayConfig) -> Shape:
    """Return the shape of an address of parameter memory."""
    return Shape(config.param_address_bits)
