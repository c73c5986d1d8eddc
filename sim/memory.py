"""Memories as plain Verilog modules, for simulators.

Amaranth prints the initial value of every row: 6 MB of Verilog and 8 s for 256 Ki bytes of zeros. This platform hands
Amaranth an instance of a module written here instead, through the documented `Memory` override.
"""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module, Shape
from amaranth.lib.memory import Memory

LARGE_ROWS = 512
"""Memories with fewer rows stay with Amaranth."""


class SimulationPlatform:
    """Platform for `amaranth.back.verilog.convert` that collects the modules of large, zero-initialized memories.

    Members
    -------
    modules : dict[str, str]
        Verilog text by module name; append it to what `convert` returned.
    """

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}

    def get_memory(self, memory: Memory) -> Elaboratable:
        """Return what replaces `memory`: an instance of a collected module, or Amaranth's own lowering.

        Read ports are synchronous or transparent as `memory` asked for; every port must be in one clock domain.
        """
        domains = {port.domain for port in (*memory.read_ports, *memory.write_ports)}
        plain = isinstance(memory.shape, Shape | int) and len(domains) == 1 and "comb" not in domains
        if memory.depth < LARGE_ROWS or not plain or any(memory.init):
            return memory.elaborate(None)
        name, text = _module(memory)
        self.modules[name] = text
        pins = {"i_clk": ClockSignal(domains.pop())}
        for index, port in enumerate(memory.read_ports):
            pins |= {f"i_r{index}_en": port.en, f"i_r{index}_addr": port.addr, f"o_r{index}_data": port.data}
        for index, port in enumerate(memory.write_ports):
            pins |= {f"i_w{index}_en": port.en, f"i_w{index}_addr": port.addr, f"i_w{index}_data": port.data}
        m = Module()
        m.submodules.ram = Instance(name, **pins)
        return m


def _module(memory: Memory) -> tuple[str, str]:
    """Return name and text of the module with `memory`'s width, depth and ports."""
    width, depth = Shape.cast(memory.shape).width, memory.depth
    bits = max(1, (depth - 1).bit_length())
    ports, lines, name = ["input clk"], [], f"hwq_ram_{depth}x{width}"
    for index, port in enumerate(memory.write_ports):
        parts = len(port.en)
        part = width // parts
        name += f"_w{parts}"
        ports += [f"input [{parts - 1}:0] w{index}_en", f"input [{bits - 1}:0] w{index}_addr"]
        ports += [f"input [{width - 1}:0] w{index}_data"]
        for i in range(parts):
            span = f"{(i + 1) * part - 1}:{i * part}"
            lines += [f"    if (w{index}_en[{i}]) mem[w{index}_addr][{span}] <= w{index}_data[{span}];"]
    for index, port in enumerate(memory.read_ports):
        name += "_r" + "".join(str(memory.write_ports.index(write)) for write in port.transparent_for)
        ports += [
            f"input r{index}_en",
            f"input [{bits - 1}:0] r{index}_addr",
            f"output reg [{width - 1}:0] r{index}_data",
        ]
        lines += [f"    if (r{index}_en) begin", f"      r{index}_data <= mem[r{index}_addr];"]
        for write in port.transparent_for:
            w = memory.write_ports.index(write)
            part = width // len(write.en)
            for i in range(len(write.en)):
                span = f"{(i + 1) * part - 1}:{i * part}"
                hit = f"w{w}_en[{i}] && w{w}_addr == r{index}_addr"
                lines += [f"      if ({hit}) r{index}_data[{span}] <= w{w}_data[{span}];"]
        lines += ["    end"]
    text = [
        f"module {name}({', '.join(ports)});",
        f"  reg [{width - 1}:0] mem [0:{depth - 1}];",
        "  integer row;",
        f"  initial for (row = 0; row < {depth}; row = row + 1) mem[row] = 0;",
        *(f"  initial r{index}_data = 0;" for index in range(len(memory.read_ports))),
        "  always @(posedge clk) begin",
        *lines,
        "  end",
        "endmodule",
    ]
    return name, "\n".join(text) + "\n"
