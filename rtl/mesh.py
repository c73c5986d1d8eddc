"""The systolic mesh: `rows` by `cols` multiply-accumulators that keep their own sums."""

from amaranth import Cat, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwq import pipeline
from rtl import paired
from rtl.pipeline import delayed
from rtl.primitives import MaskedAdder, MultiplierPair

ROW_STAGES = 2
"""Registers of a row's control between the chain, which is near what issues steps, and the row's first PE."""


def weight_shape(int4: bool) -> Shape:
    """Return the shape of a weight on its way down: a byte, or an operand of `rtl.paired`."""
    return Shape(paired.OPERAND_BITS) if int4 else signed(8)


def shadow_shape(int4: bool, sum_bits: int = 32) -> Shape | data.StructLayout:
    """Return the shape of a finished accumulator."""
    return paired.sums_layout if int4 else signed(sum_bits)


class PE(wiring.Component):
    """One accumulator: ``acc = (acc if keep else 0) + a * w``, wrapping at `sum_bits`; `multiply` adds its multiplier.

    With `int4` it also computes two channels at once, each wrapping at 24 bits; `rtl.paired` has the operands. With
    `act_int4` an activation may be two channels', whose products it adds.

    `i_a` and `i_w` go on to the right and downward one cycle later. The control bits come with the product, two
    register stages after the operands; the mesh delays them.

    Latency: `EDGE_TO_SHADOW` from the tile's last operands to `o_shadow`. Throughput: one product a cycle.

    Members
    -------
    i_a, i_column : activation from the left, activation of the whole column
    i_broadcast : use the column's
    i_w : weight from above
    o_a, o_w : the operands one cycle later
    o_factor, i_product : the activation to multiply `i_w` by, and the product `Multiplier.LATENCY` cycles later
    i_enable : add the product
    i_keep : add to the sum so far, not to zero
    i_pairs : the product is two channels'
    i_capture : copy the accumulator to the shadow register
    i_shift, i_below : with `shift`, take the shadow register of the row below instead
    o_shadow : the last tile's sum, or both, until the next capture
    """

    def __init__(self, *, int4: bool = False, act_int4: bool = False, shift: bool = False, sum_bits: int = 32):
        self._int4, self._shift = int4, shift
        activation, weight = paired.activation_shape(act_int4), weight_shape(int4)
        sums = shadow_shape(int4, sum_bits)
        super().__init__(
            {
                "i_a": In(activation),
                "i_column": In(signed(8)),
                "i_broadcast": In(1),
                "i_w": In(weight),
                "o_a": Out(activation),
                "o_w": Out(weight),
                "o_factor": Out(activation),
                "i_product": In(signed(paired.PRODUCT_BITS if int4 else 16)),
                "i_enable": In(1),
                "i_keep": In(1),
                "i_pairs": In(1),
                "i_capture": In(1),
                **({"i_shift": In(1), "i_below": In(sums)} if shift else {}),
                "o_shadow": Out(sums),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        acc = Signal.like(self.o_shadow, reset_less=True)
        m.d.comb += self.o_factor.eq(Mux(self.i_broadcast, self.i_column, self.i_a))
        m.d.sync += [self.o_a.eq(self.o_factor), self.o_w.eq(self.i_w)]
        if self._int4:
            m.submodules.adder = adder = MaskedAdder(paired.ADDER_BITS)
            kept, mask, addend = paired.operands(acc, self.i_product, self.i_pairs, self.i_keep)
            total = paired.sums_of(adder.o)
        else:
            m.submodules.adder = adder = MaskedAdder(len(acc), whole=True)
            kept, mask, addend = acc, self.i_keep, self.i_product
            total = adder.o
        m.d.comb += [adder.i_a.eq(kept), adder.i_mask.eq(mask), adder.i_b.eq(addend)]
        with m.If(self.i_enable):
            m.d.sync += Value.cast(acc).eq(total)
        if self._shift:
            with m.If(self.i_shift):
                m.d.sync += self.o_shadow.eq(self.i_below)
        with m.If(self.i_capture):
            m.d.sync += self.o_shadow.eq(acc)
        return m


def multiply(m, pes, *, int4: bool = False, act_int4: bool = False) -> None:
    """Give each of `pes` a multiplier; those of bytes share one for two."""
    for index, pe in enumerate(pes):
        if int4:
            m.submodules[f"multiplier_{index}"] = multiplier = paired.Multiplier(act_int4=act_int4)
            a, b, o = multiplier.i_a, multiplier.i_b, multiplier.o
        else:
            half = index % 2
            if half == 0:
                m.submodules[f"multiplier_{index}"] = multiplier = MultiplierPair()
            a, b, o = multiplier.i_a[half], multiplier.i_b[half], multiplier.o[half]
        m.d.comb += [a.eq(pe.o_factor), b.eq(pe.i_w), pe.i_product.eq(o)]


class Mesh(wiring.Component):
    """Output-stationary array: row p carries a pixel, column c a channel, both operands move one PE a cycle.

    Row p's byte of a step must come p cycles after row 0's; the mesh itself delays column c's weight by c cycles,
    so PE (p, c) meets step k's operands p + c cycles after PE (0, 0). With `i_broadcast` all rows of column c see the
    column's byte c cycles after it came, while weights still move down a row a cycle: row p multiplies step j's byte
    by step j - p's weight, which is a convolution along the steps. The control bits come with row 0's operands, go
    down a chain row by row, and along each row from PE to PE. Bubbles (cycles without `i_valid`) are allowed anywhere.

    What goes along a row comes to every `bank` columns from the edge, as late as through the columns before, so that
    columns that share what reads them can lie side by side.

    Where columns are `aligned`, all of them meet a step's operands at once, and c counts as 0.

    Latency: ``EDGE_TO_SHADOW + p + c`` from the last step on the edge to PE (p, c)'s sum in `o_shadow`.
    Throughput: one step, rows * cols products, a cycle. Bare signals; the issuer knows when a shadow is free.

    Members
    -------
    i_a : one byte for each row, row p's p cycles late
    i_column : one byte for each column, all at once
    i_broadcast : every row of a column gets the column's byte, instead of its row's from the left
    i_strips : weights take `STRIP_STEPS` cycles from one pair of rows to the next, and so do the control bits
        Both come with row 0's operands and hold for the bubbles too; a PE changes over when the first operands of the
        new kind can reach it. No step of a strip may still matter to a row below when they change.
    i_w : one weight for each column
    i_pairs : with `int4`, the weights are two channels'
    i_dots : with `act_int4`, the rows' bytes are two channels' as well; set only with `i_pairs`
    i_valid : row 0's operands are a step
    i_first, i_last : the step is the tile's first, last
    i_shift : with `shift`, one bit a column: its sums move up a row
    o_shadow : sum of PE (p, c) at index p * cols + c, with `int4` as `rtl.paired` has them; with `shift` those of row 0
    """

    def __init__(
        self,
        *,
        rows: int,
        cols: int,
        strips: bool = False,
        int4: bool = False,
        act_int4: bool = False,
        shift: bool = False,
        aligned: bool = False,
        bank: int | None = None,
        sum_bits: int = 32,
    ):
        self._rows, self._cols, self._strips, self._int4, self._act_int4 = rows, cols, strips, int4, act_int4
        self._shift, self._aligned, self._bank, self._sum_bits = shift, aligned, bank or cols, sum_bits
        super().__init__(
            {
                "i_a": In(data.ArrayLayout(signed(8), rows)),
                "i_column": In(data.ArrayLayout(signed(8), cols)),
                "i_broadcast": In(1),
                "i_strips": In(1),
                "i_w": In(data.ArrayLayout(weight_shape(int4), cols)),
                "i_pairs": In(1),
                "i_dots": In(1),
                "i_valid": In(1),
                "i_first": In(1),
                "i_last": In(1),
                **({"i_shift": In(cols)} if shift else {}),
                "o_shadow": Out(data.ArrayLayout(shadow_shape(int4, sum_bits), cols if shift else rows * cols)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        rows, cols = self._rows, self._cols
        operand_stages = pipeline.EDGE_TO_SHADOW - 2
        # cycles by which a pair of rows lags more in strips
        lag = [(p // 2) * (pipeline.STRIP_STEPS - 2) if self._strips else 0 for p in range(rows)]
        depth = operand_stages - ROW_STAGES + rows + lag[-1]
        # a strip's control bits have a chain of their own, so that the longer way down shows none of other layers' bits
        kinds = (0, 1) if self._strips else (0,)
        names = ("enable", "first", "last", "pairs")
        chains = [[Signal(depth, name=f"{name}_{kind}") for name in names] for kind in kinds]
        for kind, (enable, first, last, pairs) in zip(kinds, chains, strict=True):
            valid = self.i_valid & (self.i_strips == kind) if self._strips else self.i_valid
            m.d.sync += [
                enable.eq((enable << 1) | valid),
                first.eq((first << 1) | self.i_first),
                last.eq((last << 1) | (valid & self.i_last)),
            ]
            if self._int4 and not kind:
                m.d.sync += pairs.eq((pairs << 1) | self.i_pairs)
        modes = [Cat(bit, _history(m, bit, operand_stages + rows)) for bit in (self.i_broadcast, self.i_strips)]
        broadcast, strips = modes
        dots = Cat(self.i_dots, _history(m, self.i_dots, rows)) if self._act_int4 else None
        form = {"int4": self._int4, "act_int4": self._act_int4, "shift": self._shift, "sum_bits": self._sum_bits}
        pes = [[PE(**form) for _ in range(cols)] for _ in range(rows)]
        multiply(m, (pe for row in pes for pe in row), int4=self._int4, act_int4=self._act_int4)
        skew = [0 if self._aligned else c for c in range(cols)]
        for c in range(cols):
            m.d.comb += pes[0][c].i_w.eq(delayed(m, self.i_w[c], skew[c]))
            column = delayed(m, self.i_column[c], skew[c])
            for p in range(rows):
                m.d.comb += pes[p][c].i_column.eq(column)
        for p in range(rows):
            a = self.i_a[p] if dots is None else paired.operand(self.i_a[p], dots[p])
            # chain[k] holds the control of the step that was on the edge k + 1 cycles ago; registers of the row follow
            position = operand_stages - 1 - ROW_STAGES + p

            def tap(index, at, late=lag[p]):
                plain = chains[0][index][at]
                return Mux(strips[at + 1], chains[1][index][at + late], plain) if self._strips else plain

            ending = Cat(tap(0, position), ~tap(1, position), tap(3, position), tap(2, position + 1))
            edge = control = Cat(delayed(m, ending, ROW_STAGES), broadcast[p], strips[p])
            for c in range(cols):
                pe, first = pes[p][c], c % self._bank == 0
                m.submodules[f"pe_{p}_{c}"] = pe
                if c and first and not self._aligned:
                    a, edge = delayed(m, a, self._bank), delayed(m, edge, self._bank)
                control = edge if first or self._aligned else delayed(m, control, 1, alone=True)
                m.d.comb += Cat(pe.i_enable, pe.i_keep, pe.i_pairs, pe.i_capture, pe.i_broadcast).eq(control[:-1])
                if not self._shift or p == 0:
                    m.d.comb += self.o_shadow[p * cols + c].eq(pe.o_shadow)
                if self._shift:
                    below = pes[p + 1][c].o_shadow if p < rows - 1 else 0
                    m.d.comb += [pe.i_shift.eq(self.i_shift[c]), pe.i_below.eq(below)]
                if p:
                    above = pes[p - 1][c].o_w
                    if late := lag[p] - lag[p - 1]:
                        above = Mux(control[-1], delayed(m, above, late), above)
                    m.d.comb += pe.i_w.eq(above)
                m.d.comb += pe.i_a.eq(a if first or self._aligned else pes[p][c - 1].o_a)
        return m


def _history(m, bit, depth: int):
    """Return `bit` as it was 1 to `depth` cycles ago."""
    chain = Signal(depth)
    m.d.sync += chain.eq((chain << 1) | bit)
    return chain
