"""The 32-bit host bus: Wishbone B4 classic, one word a transfer.

Source: Wishbone B4 specification (OpenCores, 2010), section 3.2, classic standard cycles; the signal names are those
of the specification without their ``_O``/``_I`` suffix.
"""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

ADR_BITS = 26
"""Width of the word address [bit]: 28 bits of byte address, see `hwq.isa.Region`."""

DATA_BITS = 32
"""Width of a transfer [bit]."""


class BusSignature(wiring.Signature):
    """Wishbone classic as the initiator sees it; a device declares ``bus: In(BusSignature())``.

    A transfer starts when the initiator raises ``cyc`` and ``stb`` with ``adr``, ``we``, ``sel`` and ``dat_w`` valid.
    It holds all of them until it samples ``ack``, which the device raises for one cycle, one or more cycles after it
    first sampled the request. In that cycle the device has taken a write's data, or drives a read's on ``dat_r``.
    The request after it may be presented in the very next cycle, so ``stb`` high in the cycle after ``ack`` is always
    a new transfer. ``stb`` low between transfers is allowed at any time; ``cyc`` may stay high meanwhile.

    Throughput: at best one word every two cycles. Backpressure: the device delays ``ack``.

    Members
    -------
    adr : Out(26)
        Word address: the byte address without its two lowest bits.
    dat_w : Out(32)
        Data of a write, byte 0 in bits 7..0.
    dat_r : In(32)
        Data of a read, valid only while ``ack`` is high.
    sel : Out(4)
        Byte enables of a write; ignored by reads, which deliver the whole word.
    we : Out(1)
        The transfer is a write.
    cyc, stb : Out(1)
        Request: both high.
    ack : In(1)
        The transfer ends with this cycle.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "adr": Out(ADR_BITS),
                "dat_w": Out(DATA_BITS),
                "dat_r": In(DATA_BITS),
                "sel": Out(DATA_BITS // 8),
                "we": Out(1),
                "cyc": Out(1),
                "stb": Out(1),
                "ack": In(1),
            }
        )
