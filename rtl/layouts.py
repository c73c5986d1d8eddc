"""Amaranth layouts of what `hwq.isa` declares; no bit position is written here."""

from amaranth import Shape, Value
from amaranth.lib import data

from hwq import isa


def field_shape(field: isa.Field) -> Shape:
    """Return the field's width and sign as an Amaranth shape."""
    return Shape(field.width, field.signed)


def field_slice(field: isa.Field, word: Value) -> Value:
    """Return the field's bits of the 32-bit `word` that holds it, with the field's sign."""
    bits = word[field.lsb : field.lsb + field.width]
    return bits.as_signed() if field.signed else bits


descriptor_layout = data.StructLayout({field.name: field_shape(field) for field in isa.DESCRIPTOR})
"""A decoded descriptor, one member a field."""

param_layout = data.StructLayout({field.name: field_shape(field) for field in isa.PARAM})
"""One lane's decoded parameters."""

address_shape = Shape(isa.ADDRESS_BITS)
step_shape = Shape(isa.ADDRESS_BITS, signed=True)
