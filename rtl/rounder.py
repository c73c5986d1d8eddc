"""Rounding through float32 at a binary point: the end of the residual add."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.pipeline import delayed

__all__ = ["Rounder"]

_WHOLE_BITS = 9
_FRACTION_BITS = 25
_FINE_BITS = 3


class Rounder(wiring.Component):
    """Round to float32, then to an integer, and apply the sign: ``o = ±RNE(fl(i_magnitude * 2**-shift))``.

    ``shift = shift_min + i_excess``.

    The two roundings are one comparison with a tie band around one half, as in ``hwq.fixed._round_near_tie``,
    where it is proved: with i the integer part, of bit length j, and f the fraction, the result is ``i + 1`` where
    ``f > 1/2 + 2**(j - 25)``, or where ``|f - 1/2| <= 2**(j - 25)`` and i is odd; else it is i. Integer parts of
    512 and more become 511.

    Four stages: shift by multiples of 8, shift by the rest, compare with the band, round and negate. Bits lost
    below the 25th fraction bit are kept as one sticky bit: the finest band, 2**-25, is decided by 25 bits and
    whether anything follows.

    Bare signals: it sits inside a pipeline that never stalls.

    Latency: 4 cycles. Throughput: one result a cycle. Backpressure: none.

    Parameters
    ----------
    width : int
        Width of the magnitude [bits], at least 1.
    shift_min, shift_max : int
        Range of the shift, ``0 <= shift_min < shift_max`` and ``shift_min <= 25``.

    Members
    -------
    i_magnitude : In(width)
        What is rounded, without its sign.
    i_negative : In(1)
        Its sign.
    i_excess : In(bits of shift_max - shift_min)
        Shift less `shift_min`.
    o : Out(signed(11))
        -512 to 512.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """

    LATENCY = 4

    def __init__(self, *, width: int, shift_min: int, shift_max: int):
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"Magnitude's width must be a positive integer, not {width!r}")
        if not 0 <= shift_min <= _FRACTION_BITS:
            raise ValueError(f"Least shift must be 0 to {_FRACTION_BITS}, not {shift_min!r}")
        if not shift_max > shift_min:
            raise ValueError(f"Greatest shift must be above the least, {shift_min!r}, not {shift_max!r}")
        self.shift_min = shift_min
        super().__init__(
            {
                "i_magnitude": In(width),
                "i_negative": In(1),
                "i_excess": In(range(shift_max - shift_min + 1)),
                "o": Out(signed(11)),
            }
        )

    def elaborate(self, platform):
        """Return the module."""
        m = Module()

        # The window is 9 integer and 25 fraction bits; a coarse shift leaves it with the 7 bits that a fine one may
        # bring down.
        window_bits = _WHOLE_BITS + _FRACTION_BITS
        coarse_bits = window_bits + (1 << _FINE_BITS) - 1
        word = Cat(C(0, _FRACTION_BITS - self.shift_min), self.i_magnitude)
        coarse = self.i_excess[_FINE_BITS:]
        distance = Cat(C(0, _FINE_BITS), coarse)
        lost_bytes = Cat(word[8 * i : 8 * i + 8].any() & (coarse > i) for i in range(1 << len(coarse)))

        coarse_window = delayed(m, (word >> distance)[:coarse_bits], 1)
        coarse_above = delayed(m, (word[coarse_bits:] >> distance).any(), 1)
        coarse_lost = delayed(m, lost_bytes.any(), 1)
        fine = delayed(m, self.i_excess[:_FINE_BITS], 1)

        fine_window = Cat(C(0, (1 << _FINE_BITS) - 1), coarse_window) >> fine
        lost, fraction, whole, above = (
            fine_window[:7],
            fine_window[7 : 7 + _FRACTION_BITS],
            fine_window[7 + _FRACTION_BITS : 7 + window_bits],
            fine_window[7 + window_bits :],
        )
        saturated = (coarse_above | above.any()).replicate(_WHOLE_BITS)
        sticky = delayed(m, coarse_lost | lost.any(), 1)
        fraction = delayed(m, fraction, 1)
        whole = delayed(m, whole | saturated, 1)

        # With u the fraction in units of 2**-25, t = 2**24 one half and 2**j the band: above it u > t + 2**j, which
        # at or above t is rest > 2**j; in its lower half u >= t - 2**j, which below t is that the bits of rest from
        # j up are all ones.
        half, rest = fraction[-1], fraction[:-1]
        from_band = Signal(_WHOLE_BITS + 1)  # bit n: j <= n
        at_band = Signal(_WHOLE_BITS + 1)  # bit n: j == n
        m.d.comb += from_band.eq(Cat(~whole[n:].any() for n in range(_WHOLE_BITS + 1)))
        m.d.comb += at_band.eq(from_band & ~(from_band << 1))
        near, far = rest[: len(from_band)], rest[len(from_band) :]
        beyond = far.any() | (near & from_band & ~at_band).any()
        past_edge = (near & at_band).any() & ((near & ~from_band).any() | sticky)
        reaches = far.all() & (near | ~from_band).all()
        nearest = Mux(half, beyond | past_edge | whole[0], reaches & whole[0])
        round_up = delayed(m, nearest, 1)
        whole = delayed(m, whole, 1)

        # -(i + up) is ~i + ~up, so one adder serves both signs.
        negative = delayed(m, self.i_negative, self.LATENCY - 1)
        bits = Cat(whole, C(0, 2)) ^ negative.replicate(11)
        m.d.comb += self.o.eq(delayed(m, (bits + (round_up ^ negative))[:11].as_signed(), 1))
        return m
