"""The requantizer, one operand a cycle, against `hwq.fixed.requantize`."""

from __future__ import annotations

import cocotb
import numpy as np

from hwq import fixed
from rtl.requantize import Requantizer
from sim.benches.bench import Bench, signed

CORNERS = (0, 1, -1, 127, -128, (1 << 24) - 1, (1 << 24) + 1, (1 << 31) - 1, -(1 << 31))
PER_LAYER = 400


async def check_layer(bench: Bench, zero_point: int, lo: int, hi: int) -> None:
    """Send PER_LAYER accumulators, corners first, and compare every result."""
    draw = bench.random
    bench.set(i_zero_point=zero_point, i_lo=lo, i_hi=hi)
    await bench.cycle()
    sent: list[tuple[int, int, int, int]] = []
    for index in range(PER_LAYER + Requantizer.LATENCY):
        if index >= Requantizer.LATENCY:
            acc, bias, mantissa, shift = sent[index - Requantizer.LATENCY]
            total = signed((acc + bias) & 0xFFFF_FFFF, 32)
            want = fixed.requantize(
                np.array([total], np.int32), np.uint32(mantissa), np.uint8(shift), zero_point, lo, hi
            )
            got = signed(bench.get("o"), 8)
            assert got == want[0], f"acc {acc} bias {bias} mantissa {mantissa} shift {shift}: {got}, not {want[0]}"
        if index < PER_LAYER:
            acc = CORNERS[index] if index < len(CORNERS) else signed(draw.getrandbits(32), 32) >> draw.randrange(32)
            bias = 0 if index < len(CORNERS) else signed(draw.getrandbits(32), 32) >> draw.randrange(32)
            mantissa = 0 if draw.random() < 0.02 else draw.randrange(1 << 23, 1 << 24)
            shift = draw.randrange(14, 64) if draw.random() < 0.2 else min(63, 15 + abs(acc + bias).bit_length())
            sent.append((acc, bias, mantissa, shift))
            bench.set(i_acc=acc, i_bias=bias, i_mantissa=mantissa, i_shift=shift)
        await bench.cycle()


@cocotb.test
async def every_result_equals_the_reference(dut) -> None:
    bench = Bench(dut)
    await bench.start(i_acc=0, i_bias=0, i_mantissa=0, i_shift=14, i_zero_point=0, i_lo=-128, i_hi=127)
    for zero_point, lo, hi in [(0, -128, 127), (-128, -128, 127), (127, -128, 127), (5, -3, 100), (-20, 7, 7)]:
        await check_layer(bench, zero_point, lo, hi)
