"""Prints how fast an accelerator is simulated: ``python -m sim.speed [ARCH ...]``."""

from __future__ import annotations

import sys
import time

import numpy as np

from hwq import isa
from hwq.config import PRESETS, ArrayConfig, load_arch
from hwq.driver import Driver
from sim.verilator_bus import open_bus

BUSY_CYCLES = 400_000


def program(config: ArrayConfig, cycles: int) -> list[int]:
    """Return a 3×3 convolution over the same pixels again and again, some `cycles` long, and a HALT."""
    span = min(64, config.weight_words // 9, config.act_bytes // 16)
    values = {
        "opcode": isa.Opcode.CONV, "pixels": max(1, cycles // (9 * span)) * config.rows, "row_pixels": config.rows,
        "taps_y": 3, "taps_x": 3, "span": span, "tap_x_step": span, "tap_y_step": span, "ifm_x_step": span,
        "ifm_y_step": -span * (config.rows - 1), "ofm_base": config.act_bytes // 2, "blocks": 1,
        "last_channels": config.cols, "lo": -128, "hi": 127, "factor_a": 1, "add_lo": -128, "add_hi": 127,
    }  # fmt: skip
    descriptor = isa.encode(isa.DESCRIPTOR, isa.SLOT_WORDS, values)
    return descriptor + isa.encode(isa.DESCRIPTOR, isa.SLOT_WORDS, {"opcode": isa.Opcode.HALT})


def measure(config: ArrayConfig, cycles: int = BUSY_CYCLES) -> tuple[float, float, float]:
    """Return [seconds] to open the simulator, [clock cycles/second] while the mesh is busy, and its utilisation."""
    start = time.perf_counter()
    with Driver(open_bus(config), config) as driver:
        opened = time.perf_counter() - start
        rng = np.random.default_rng(0)
        driver.load_program(np.array(program(config, cycles), np.uint32))
        driver.load_weights(rng.integers(-128, 128, (min(1024, config.weight_words), config.cols), np.int8))
        driver.write_act(0, rng.integers(-128, 128, min(config.act_bytes, 8192), np.int8))
        driver.load_params(np.full((1, 2 * config.lanes), 0x14FF_FFFF, np.uint32))
        best, counters = 0.0, {}
        for _ in range(3):
            start = time.perf_counter()
            counters = driver.start(0)
            best = max(best, counters["cycles"] / (time.perf_counter() - start))
    return opened, best, counters["cycles_mesh"] / counters["cycles"]


if __name__ == "__main__":
    for name in sys.argv[1:] or PRESETS:
        opened, rate, busy = measure(load_arch(name))
        print(f"{name:12} {rate / 1e3:8.0f} kcycle/s  mesh busy {busy:4.0%}  opened in {opened:.1f} s", flush=True)
