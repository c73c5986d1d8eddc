"""The mesh: tiles of random depth with random bubbles, every accumulator against numpy.

With `HWQ_INT4` the mesh takes tiles of 8-bit weights and of pairs of 4-bit ones in turn.
"""

from __future__ import annotations

import os

import cocotb
import numpy as np

from hwq import pipeline
from sim.benches.bench import Bench, signed

TILES = 12


def _joined(values: list[int], bits: int) -> int:
    """Return `values` one above the other."""
    return sum((value & ((1 << bits) - 1)) << bits * index for index, value in enumerate(values))


def _operand(w: np.ndarray, column: int, cols: int, pairs: bool) -> int:
    """Return what column `column` gets of a step's weights: bits 0..7, and 12..16 above them, of the multiplicand."""
    low = int(w[column])
    number = low + (int(w[column + cols]) << 12 if pairs else 0)
    return number & 0xFF | (number >> 12 & 0x1F) << 8


def _bytes(numbers: np.ndarray) -> np.ndarray:
    """Return bytes of two numbers of 4 bits each, neighbours along the last axis, the first one in the low half."""
    return (numbers[..., 0::2] & 15 | numbers[..., 1::2] << 4).astype(np.int8)


@cocotb.test
async def every_sum_is_the_matrix_product(dut) -> None:
    rows, cols = int(os.environ["HWQ_ROWS"]), int(os.environ["HWQ_COLS"])
    int4, act_int4 = os.environ["HWQ_INT4"] == "1", os.environ["HWQ_ACT_INT4"] == "1"
    bench = Bench(dut)
    await bench.start(i_a=0, i_w=0, i_valid=0, i_first=0, i_last=0, i_pairs=0, i_dots=0)
    draw = bench.random
    rng = np.random.default_rng(draw.getrandbits(32))
    late: list[list[int]] = [[0] * row for row in range(rows)]  # row p's byte comes p cycles after row 0's
    settle = pipeline.EDGE_TO_SHADOW + rows + cols

    async def send(a: np.ndarray, w: list[int], valid: int, first: int, last: int, pairs: int, dots: int = 0) -> None:
        edge = bytearray()
        for row, queue in enumerate(late):
            queue.append(int(a[row]) & 0xFF)
            edge.append(queue.pop(0))
        bench.set(
            i_a=int.from_bytes(edge, "little"), i_w=_joined(w, 13 if int4 else 8),
            i_valid=valid, i_first=first, i_last=last, i_pairs=pairs, i_dots=dots,
        )  # fmt: skip
        await bench.cycle()

    async def bubble() -> None:
        w = [draw.randrange(1 << (13 if int4 else 8)) for _ in range(cols)]
        bits = [draw.randint(0, 1) for _ in range(4)]
        await send(rng.integers(-128, 128, rows, np.int8), w, 0, *bits)

    def shadow(pairs: bool) -> np.ndarray:
        word, pitch = bench.get("o_shadow"), 48 if int4 else 32
        width, places = (24, [0, 24]) if pairs else (32, [0])
        mask = (1 << width) - 1
        starts = [[pitch * (p * cols + c) + at for at in places for c in range(cols)] for p in range(rows)]
        return np.array([[signed(word >> start & mask, width) for start in row] for row in starts])

    async def dots() -> None:
        depth = draw.randint(1, 40)
        a, w = (rng.integers(-8, 8, (size, 2 * depth)) for size in (rows, cols))
        if depth % 4 == 0:
            a[:], w[:] = -8, -8
        swapped = w.reshape(cols, depth, 2)[:, :, ::-1]
        operands = [[_operand(swapped[:, k].T.reshape(-1), c, cols, True) for c in range(cols)] for k in range(depth)]
        for k, step in enumerate(operands):
            while draw.random() < 0.3:
                await bubble()
            await send(_bytes(a)[:, k], step, 1, k == 0, k == depth - 1, 1, 1)
        for _ in range(settle):
            await bubble()
        assert np.array_equal(shadow(True)[:, cols:], a @ w.T), f"two channels a step, depth {depth}"

    for tile in range(TILES):
        depth = 1 if tile == 0 else draw.randint(1, 40)
        if act_int4 and tile % 3 == 2:
            await dots()
            continue
        pairs = int4 and tile % 2 == 1
        least = -8 if pairs else -128
        a = rng.integers(-128, 128, (rows, depth), np.int8)
        w = rng.integers(least, -least, (depth, cols << pairs), np.int8)
        if tile == 1:
            a[:], w[:] = -128, least
        operands = [[_operand(w[k], c, cols, pairs) for c in range(cols)] for k in range(depth)]
        for k in range(depth):
            while draw.random() < 0.3:
                await bubble()
            await send(a[:, k], operands[k], 1, k == 0, k == depth - 1, pairs)
        for _ in range(settle):
            await bubble()
        assert np.array_equal(shadow(pairs), a.astype(np.int64) @ w.astype(np.int64)), f"tile {tile}, depth {depth}"


@cocotb.test
async def a_tile_follows_without_a_gap(dut) -> None:
    rows, cols = int(os.environ["HWQ_ROWS"]), int(os.environ["HWQ_COLS"])
    int4 = os.environ["HWQ_INT4"] == "1"
    bench = Bench(dut)
    await bench.start(i_a=0, i_w=0, i_valid=0, i_first=0, i_last=0, i_pairs=0, i_dots=0)
    depth, tiles = rows + cols, 6
    rng = np.random.default_rng(bench.random.getrandbits(32))
    a = rng.integers(-128, 128, (tiles, rows, depth), np.int8)
    w = rng.integers(-128, 128, (tiles, depth, cols), np.int8)
    steps = tiles * depth
    for cycle in range(steps + pipeline.EDGE_TO_SHADOW + rows + cols):
        edge = bytearray(rows)
        for row in range(rows):
            tile, k = divmod(cycle - row, depth)
            if 0 <= tile < tiles:
                edge[row] = int(a[tile, row, k]) & 0xFF
        tile, k = divmod(cycle, depth)
        weights = [_operand(w[tile, k], c, cols, False) for c in range(cols)] if tile < tiles else []
        bench.set(
            i_a=int.from_bytes(edge, "little"), i_w=_joined(weights, 13 if int4 else 8),
            i_valid=tile < tiles, i_first=k == 0, i_last=k == depth - 1,
        )  # fmt: skip
        await bench.cycle()
        for row in range(rows):
            for col in range(cols):
                done, phase = divmod(cycle + 1 - pipeline.EDGE_TO_SHADOW - row - col, depth)
                if 1 <= done <= tiles and phase == 0:
                    word = bench.get("o_shadow") >> (48 if int4 else 32) * (row * cols + col) & 0xFFFF_FFFF
                    want = int(a[done - 1, row].astype(np.int64) @ w[done - 1, :, col].astype(np.int64))
                    assert signed(word, 32) == want, f"PE ({row}, {col}) of tile {done - 1}"
