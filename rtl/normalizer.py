"""Normalizing a number to its leading bits, rounded as float32's significand."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwq.fixed import MULTIPLIER_BITS
from rtl.pipeline import delayed

__all__ = ["Normalizer"]


class Normalizer(wiring.Component):
    """Shift a number's magnitude to the left until its first bit is 1, and round it to 24 bits, ties to even.

    ``|i| = o * 2**(width - 25 + o_carry - o_shift)``, rounded, with ``o`` of 24 bits: 2**23 and more, or 0 for 0. Where
    rounding carries, ``o`` is 2**23. With `i_hold` `o_shift` is at most 7: of 32 bits, numbers below 2**24 then stay as
    they are.

    The number itself is shifted, zeros following, until the bit after the sign differs from it; what is then the
    complement of a negative one lacks one unit of the last place, which the rounding adds. Registers: shifted by
    multiples of 8, two powers of two a stage; shifted by the rest; rounded.

    Bare signals: it sits inside a pipeline that never stalls.

    Latency: `latency`, 4 of 32 bits. Throughput: one number a cycle. Backpressure: none.

    Parameters
    ----------
    width : int
        Width of the number [bits], above 25.

    Members
    -------
    i : In(signed(width))
    i_hold : In(1)
    o : Out(24)
    o_carry : Out(1)
    o_shift : Out(bits of width - 2)
    o_negative : Out(1)

    Raises
    ------
    ValueError
        If the width isn't above 25.
    """

    def __init__(self, width: int):
        if not isinstance(width, int) or width <= MULTIPLIER_BITS + 1:
            raise ValueError(f"Number's width must be an integer above {MULTIPLIER_BITS + 1}, not {width!r}")
        self._width = width
        self._coarse = [1 << n for n in reversed(range(3, (width - 2).bit_length()))]
        self.latency = len(self._coarse) + 2
        super().__init__(
            {
                "i": In(signed(width)),
                "i_hold": In(1),
                "o": Out(MULTIPLIER_BITS),
                "o_carry": Out(1),
                "o_shift": Out((width - 2).bit_length()),
                "o_negative": Out(1),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()
        negative, hold, bits = self.i[-1], self.i_hold, self.i[:-1]
        shift = C(0, 0)
        for distance in self._coarse:
            far = Signal(name=f"far_{distance}")
            m.d.comb += far.eq(_leads(bits, negative, distance) & ~hold)
            # for the next stage, from both that it may get
            far_4 = delayed(m, Mux(far, _leads(bits[:-distance], negative, 4), _leads(bits, negative, 4)), 1)
            bits = delayed(m, _shifted(bits, far, distance), 1)
            shift = delayed(m, Cat(far, shift), 1)
            negative, hold = delayed(m, negative, 1), delayed(m, hold, 1)
        bits = _shifted(bits, far_4, 4)
        far_2 = _leads(bits, negative, 2)
        bits = _shifted(bits, far_2, 2)
        far_1 = _leads(bits, negative, 1)
        bits = _shifted(bits, far_1, 1)
        # Zeros followed, so of a complement all the bits that are left out are ones where these are zeros.
        low = self._width - 1 - MULTIPLIER_BITS
        follow, bits = delayed(m, bits[: low - 1].any(), 1), delayed(m, bits ^ negative.replicate(len(bits)), 1)
        shift, negative = delayed(m, Cat(far_1, far_2, far_4, shift), 1), delayed(m, negative, 1)

        kept, guard = bits[low:], bits[low - 1]
        # A complement lacks a unit: one half is reached where its first bit left out is 1, and where ones follow a 0.
        up = Mux(negative, guard | (~follow & kept[0]), guard & (follow | kept[0]))
        rounded = kept + up
        carry = rounded[MULTIPLIER_BITS]
        # what has its first bit keeps it where the carry clears all
        m.d.comb += [
            self.o.eq(delayed(m, rounded[:MULTIPLIER_BITS] | (kept & (1 << (MULTIPLIER_BITS - 1))), 1)),
            self.o_carry.eq(delayed(m, carry, 1)),
            self.o_shift.eq(delayed(m, shift, 1)),
            self.o_negative.eq(delayed(m, negative, 1)),
        ]
        return m


def _leads(bits: Value, negative: Value, count: int) -> Value:
    """Return whether the `count` first of `bits` are all the sign."""
    return ~(bits[-count:] ^ negative.replicate(count)).any()


def _shifted(bits: Value, far: Value, distance: int) -> Value:
    """Return `bits`, shifted by `distance` where `far`."""
    return Mux(far, bits << distance, bits)[: len(bits)]
