"""Two 4-bit weights on one multiplier: operands, products and sums, and how they share wires with 8-bit ones.

A paired column multiplies an activation by ``high * 2**LOW_BITS + low``. The product holds ``a * low`` in its low bits
and ``a * high`` above them, less one where ``a * low`` is negative: that borrow is given back as the carry into the
upper sum. ``a * low`` is in -1016..1024, 12 bits with its sign, which is what `LOW_BITS` must be at least; the whole
operand has 17 bits and the product 24.

Activations of 4 bits are multiplied two at once as well: a byte's activation is an operand like a weight's, and in the
product of ``a1 * 2**LOW_BITS + a0`` and ``w0 * 2**LOW_BITS + w1`` bits `LOW_BITS` and up are
``a0 * w0 + a1 * w1``, less the borrow of ``a0 * w1``. What lies above, ``a1 * w0``, is cut off, and the upper sum is
the result.
"""

from amaranth import Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import isa
from hwq.config import ArrayConfig
from hwq.weights import PAIR_BITS
from rtl import primitives
from rtl.codebook import Codebook
from rtl.pipeline import delayed

LOW_BITS = 12
"""Place of the upper weight in a paired operand [bit]."""

OPERAND_BITS = 8 + 5
"""Bits of an operand on its way down the mesh: an 8-bit number, and the upper weight less the lower one's borrow."""

PRODUCT_BITS = LOW_BITS + 12

sums_layout = data.StructLayout({"low": PAIR_BITS, "high": PAIR_BITS})
"""An accumulator: two sums, or one of 32 bits, its upper eight in the low bits of `high`."""


def multiplicand(operand: Value) -> Value:
    """Return the signed number that `operand` (`OPERAND_BITS`) stands for; bit 7 reaches up to bit `LOW_BITS`."""
    return Cat(operand[:8], operand[7].replicate(LOW_BITS - 8), operand[8:]).as_signed()


def crossing(pairs: Value, borrow: Value) -> tuple[Value, Value]:
    """Return two bits to add between the sums: their carry into the upper one is the borrow, or the lower one's."""
    return pairs & borrow, ~pairs | borrow


ADDER_BITS = 2 * PAIR_BITS + 1
"""Bits of both sums and one between them, where the borrow enters."""


def operands(sums: data.View, product: Value, pairs: Value, keep: Value) -> tuple[Value, Value, Value]:
    """Return what a `MaskedAdder` of `ADDER_BITS` adds: of `sums`, if `keep`, and the product's parts."""
    borrow, sign = product[LOW_BITS - 1], product[-1]
    # between LOW_BITS and bit 15 one product's bits are the other's sign
    inner = product[LOW_BITS:15]
    low = Cat(
        product[:LOW_BITS],
        Mux(pairs, borrow.replicate(len(inner)), inner),
        Mux(pairs, borrow, sign).replicate(PAIR_BITS - 15),
    )
    high = Cat(Mux(pairs, inner, sign.replicate(len(inner))), product[15:])
    one, other = crossing(pairs, borrow)
    kept = keep.replicate(PAIR_BITS)
    upper = Cat(high, high[-1].replicate(PAIR_BITS - len(high)))
    return Cat(sums.low, one, sums.high), Cat(kept, Const(1), kept), Cat(low, other, upper)


def sums_of(total: Value) -> Value:
    """Return both sums of an adder of `ADDER_BITS`."""
    return Cat(total[:PAIR_BITS], total[PAIR_BITS + 1 :])


def chosen_sum(sums: data.View, pairs: Value, high: Value) -> Value:
    """Return the 32-bit sum that `sums` holds, of a paired column the lower or, with `high`, the higher one.

    `high` is set with `pairs` only.
    """
    half = Mux(high, sums.high, sums.low)
    rest = 32 - PAIR_BITS
    return Cat(half, Mux(pairs, half[-1].replicate(rest), sums.high[:rest])).as_signed()


def wide_blocks(descriptor: data.View, config: ArrayConfig) -> Value:
    """Return whether a layer's full blocks of channels have two on every column."""
    wide = descriptor.int4 & int(config.int4)
    return wide & ~descriptor.scaled if config.block_scales else wide


def operand(byte: Value, pairs: Value) -> Value:
    """Return the operand (`OPERAND_BITS`) of a byte: of its two halves, the high one as the upper number, or of all."""
    low, high = byte[:4].as_signed(), byte[4:].as_signed()
    upper = (high - low[3])[:5]
    return Mux(pairs, Cat(low, low[3].replicate(4), upper), Cat(byte, byte[7].replicate(5)))


def activation_shape(act_int4: bool) -> Shape:
    """Return the shape of an activation on its way right: a byte, or an operand."""
    return Shape(OPERAND_BITS) if act_int4 else signed(8)


class Multiplier(wiring.Component):
    """``o = i_a * multiplicand(i_b)``, with `act_int4` ``multiplicand(i_a) * multiplicand(i_b)``, its lower bits.

    Latency: 3. Throughput: one product a cycle.
    """

    def __init__(self, *, act_int4: bool = False):
        self._act_int4 = act_int4
        super().__init__(
            {"i_a": In(activation_shape(act_int4)), "i_b": In(OPERAND_BITS), "o": Out(signed(PRODUCT_BITS))}
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        a = multiplicand(self.i_a) if self._act_int4 else self.i_a
        b = multiplicand(self.i_b)
        m.submodules.cell = cell = primitives.Multiplier(a.shape(), b.shape())
        m.d.comb += [cell.i_a.eq(a), cell.i_b.eq(b), self.o.eq(cell.o)]
        return m


class WeightUnpack(wiring.Component):
    """Operands for the mesh from a word of weight memory: bytes, pairs, or one of two steps (see `hwq.weights`).

    With `codebook` the halves of two steps may be indices into a book, which comes first, an entry a cycle.

    Latency: 2. Throughput: one word a cycle.

    Members
    -------
    i_word : one byte for each column
    i_zero : zeros instead
    i_pairs : a byte is two channels' weights
    i_steps : a byte is two steps' weights
    i_odd : of the two the later one's
    i_indices : with `i_steps`, the halves are indices
    i_load, i_entry, i_column : the byte of this column is this entry of the book, and no weight
    o : one operand for each column
    """

    LATENCY = 2

    def __init__(self, *, cols: int, codebook: bool = False):
        self._cols, self._codebook = cols, codebook
        super().__init__(
            {
                "i_word": In(data.ArrayLayout(8, cols)),
                "i_zero": In(1),
                "i_pairs": In(1),
                "i_steps": In(1),
                "i_odd": In(1),
                "i_indices": In(1),
                "i_load": In(1),
                "i_entry": In(range(isa.BOOK_ENTRIES)),
                "i_column": In(range(cols)),
                "o": Out(data.ArrayLayout(OPERAND_BITS, cols)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        if self._codebook:
            m.submodules.codebook = codebook = Codebook(cols=self._cols)
            m.d.comb += [
                codebook.i_load.eq(self.i_load),
                codebook.i_entry.eq(self.i_entry),
                codebook.i_column.eq(self.i_column),
                codebook.i_word.eq(self.i_word),
            ]
        zero, booked = delayed(m, self.i_zero, 1), delayed(m, self.i_steps & self.i_indices, 1)
        for c in range(self._cols):
            byte, one, upper = self.i_word[c], Signal(signed(8)), Signal(signed(5))
            low, high = byte[:4].as_signed(), byte[4:].as_signed()
            m.d.comb += [one.eq(byte), upper.eq(one[7].replicate(5))]
            with m.If(self.i_pairs):
                m.d.comb += [one.eq(low), upper.eq(high - low[3])]
            with m.Elif(self.i_steps):
                m.d.comb += one.eq(Mux(self.i_odd, high, low))
            operand = delayed(m, Cat(one, upper), 1)
            if self._codebook:
                entry = codebook.o[c]
                m.d.comb += codebook.i_index[c].eq(operand[:4])
                operand = Mux(booked, Cat(entry, entry[7].replicate(5)), operand)
            m.d.sync += self.o[c].eq(Mux(zero, 0, operand))
        return m
