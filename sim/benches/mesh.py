"""The mesh: tiles of random depth with random bubbles, every accumulator against numpy."""

from __future__ import annotations

import os

import cocotb
import numpy as np

from hwq import pipeline
from sim.benches.bench import Bench, signed

TILES = 12


@cocotb.test
async def every_sum_is_the_matrix_product(dut) -> None:
    rows, cols = int(os.environ["HWQ_ROWS"]), int(os.environ["HWQ_COLS"])
    bench = Bench(dut)
    await bench.start(i_a=0, i_w=0, i_valid=0, i_first=0, i_last=0)
    draw = bench.random
    rng = np.random.default_rng(draw.getrandbits(32))
    late: list[list[int]] = [[0] * row for row in range(rows)]  # row p's byte comes p cycles after row 0's
    settle = pipeline.EDGE_TO_SHADOW + rows + cols

    async def send(a: np.ndarray, w: np.ndarray, valid: int, first: int, last: int) -> None:
        edge = bytearray()
        for row, queue in enumerate(late):
            queue.append(int(a[row]) & 0xFF)
            edge.append(queue.pop(0))
        bench.set(
            i_a=int.from_bytes(edge, "little"), i_w=int.from_bytes(w.tobytes(), "little"),
            i_valid=valid, i_first=first, i_last=last,
        )  # fmt: skip
        await bench.cycle()

    async def bubble() -> None:
        operands = rng.integers(-128, 128, rows + cols, np.int8)
        await send(operands[:rows], operands[rows:], 0, draw.randint(0, 1), draw.randint(0, 1))

    def shadow() -> np.ndarray:
        word = bench.get("o_shadow")
        sums = [signed(word >> 32 * index & 0xFFFF_FFFF, 32) for index in range(rows * cols)]
        return np.array(sums).reshape(rows, cols)

    for tile in range(TILES):
        depth = 1 if tile == 0 else draw.randint(1, 40)
        a = rng.integers(-128, 128, (rows, depth), np.int8)
        w = rng.integers(-128, 128, (depth, cols), np.int8)
        if tile == 1:
            a[:], w[:] = -128, -128
        for k in range(depth):
            while draw.random() < 0.3:
                await bubble()
            await send(a[:, k], w[k], 1, k == 0, k == depth - 1)
        for _ in range(settle):
            await bubble()
        assert np.array_equal(shadow(), a.astype(np.int64) @ w.astype(np.int64)), f"tile {tile}, depth {depth}"


@cocotb.test
async def a_tile_follows_without_a_gap(dut) -> None:
    rows, cols = int(os.environ["HWQ_ROWS"]), int(os.environ["HWQ_COLS"])
    bench = Bench(dut)
    await bench.start(i_a=0, i_w=0, i_valid=0, i_first=0, i_last=0)
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
        weights = w[tile, k] if tile < tiles else np.zeros(cols, np.int8)
        bench.set(
            i_a=int.from_bytes(edge, "little"), i_w=int.from_bytes(weights.tobytes(), "little"),
            i_valid=tile < tiles, i_first=k == 0, i_last=k == depth - 1,
        )  # fmt: skip
        await bench.cycle()
        for row in range(rows):
            for col in range(cols):
                done, phase = divmod(cycle + 1 - pipeline.EDGE_TO_SHADOW - row - col, depth)
                if 1 <= done <= tiles and phase == 0:
                    word = bench.get("o_shadow") >> 32 * (row * cols + col) & 0xFFFF_FFFF
                    want = int(a[done - 1, row].astype(np.int64) @ w[done - 1, :, col].astype(np.int64))
                    assert signed(word, 32) == want, f"PE ({row}, {col}) of tile {done - 1}"
