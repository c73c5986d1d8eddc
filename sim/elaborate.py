"""Verilog of the accelerator, or of any component."""

from __future__ import annotations

from amaranth.back import verilog
from amaranth.lib import wiring

from hwq.config import ArrayConfig
from sim.memory import SimulationPlatform


def convert(component: wiring.Component, name: str = "top") -> str:
    """Return `component` as Verilog: one port per signature member, nested names joined by two underscores."""
    platform = SimulationPlatform()
    text = verilog.convert(component, name=name, platform=platform, strip_internal_attrs=True)
    return "\n".join([text, *(platform.modules[module] for module in sorted(platform.modules))])


def elaborate(config: ArrayConfig) -> str:
    """Return the accelerator of `config` as Verilog, top module ``top``."""
    from rtl.top import Accelerator

    return convert(Accelerator(config))
