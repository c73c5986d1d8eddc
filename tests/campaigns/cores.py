"""The arrays that campaigns run on, all of which other tests build as well, and their simulated cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hwq.config import ArrayConfig
from hwq.driver import Driver
from tests import programs

WIDE = {"weight_bits": 4, "codebooks": 1, "block_scales": 1, "sum_bytes": 1}

ARRAYS = (
    programs.tiny(4, 4, 4, 1),
    programs.tiny(3, 5, 4, 1, tables=0, **WIDE),
    programs.tiny(6, 4, 4, 2, tables=16, act_bits=4, **WIDE),
    programs.tiny(4, 4, 4, 1, act_ports=1),
    programs.tiny(4, 4, 4, 1, **programs.LEAST),
    programs.tiny(8, 16, 16, 8, tables=3, act_bits=4, **WIDE),
)
"""Of bytes alone and of everything; square and not; with and without strips, tables, an adder, a vector unit; adders of
one lane and of two; two ports, one port, and the smallest."""


_CORES: dict[ArrayConfig, Driver] = {}


def core(config: ArrayConfig) -> Driver:
    """Return the driver of a core, which is built when it isn't in the cache."""
    from sim.verilator_bus import open_bus

    if config not in _CORES:
        _CORES[config] = Driver(open_bus(config), config)
    return _CORES[config]


@contextmanager
def instead(driver: Driver) -> Iterator[None]:
    """Let `core` return this driver of its configuration."""
    before = _CORES.pop(driver.config, None)
    _CORES[driver.config] = driver
    try:
        yield
    finally:
        del _CORES[driver.config]
        if before is not None:
            _CORES[driver.config] = before


def build() -> None:
    """Build every core."""
    for config in ARRAYS:
        core(config)
