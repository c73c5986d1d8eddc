"""Mutants of the gateware: Yosys changes one bit of the netlist, and programs that are compared must show it.

All mutants are in one simulator; a register that the simulation sets says which one is there. A mutant that survives
is a failed trial, unless it is proved that it computes the same.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np

from hwq.driver import Driver
from tests.campaigns.campaign import Campaign, allow
from tests.campaigns.cores import ARRAYS
from tests.campaigns.same_step import is_proved

CONFIG = ARRAYS[2]
"""The array of all options."""

COUNT = 1000
WIDTH = COUNT.bit_length()

PROGRAMS = 60
"""What a mutant must survive: see `tests.coverage.suite`."""

_LIST = f"""
read_verilog top.v
hierarchy -top top
proc
flatten
opt_clean
memory_dff
memory_collect
opt -fine
write_rtlil whole.il
mutate -list {COUNT} -seed 1 -o mutants.txt -ctrl mutant {WIDTH} 1 t:* t:$mem* %d
"""
"""What Yosys draws mutants from: operators, multiplexers and registers; what a memory holds comes from those."""

_APPLY = """
read_rtlil whole.il
{mutants}
opt_clean
rename top mutated
rename -hide
write_verilog -noattr mutated.v
"""

_TOP = f"""
module top (
    input clk, input rst,
    input [25:0] bus__adr, input [31:0] bus__dat_w, output [31:0] bus__dat_r, input [3:0] bus__sel,
    input bus__we, input bus__cyc, input bus__stb, output bus__ack,
    output irq, output busy, output error
);
  reg [{WIDTH - 1}:0] mutant /*verilator public_flat_rw*/;
  initial mutant = 0;
  mutated mutated (
      .clk(clk), .rst(rst),
      .bus__adr(bus__adr), .bus__dat_w(bus__dat_w), .bus__dat_r(bus__dat_r), .bus__sel(bus__sel),
      .bus__we(bus__we), .bus__cyc(bus__cyc), .bus__stb(bus__stb), .bus__ack(bus__ack),
      .irq(irq), .busy(busy), .error(error), .mutant(mutant)
  );
endmodule
"""


@dataclass(frozen=True)
class Mutant:
    """A change of the netlist: Yosys's command for it, the unit it is in."""

    command: str
    unit: str

    @property
    def alone(self) -> str:
        """Return the command that makes it, without the register."""
        return re.sub(r"-ctrl \S+ \d+ \d+ ", "", self.command)


@functools.cache
def mutants() -> list[Mutant]:
    """Return the mutants, from number 1 on."""
    return [Mutant(line, _unit(line)) for line in _listed()[1].splitlines()]


def _unit(command: str) -> str:
    match = re.search(r"-cell \S*?flatten\\(\w+?)_?\d*\.", command)
    return match[1] if match else "top"


@functools.cache
def _listed() -> tuple[bytes, str]:
    from boards.flow import step
    from sim.build import verilog

    inputs = {"top.v": verilog(CONFIG).encode(), "top.ys": _LIST.encode()}
    folder = step("mutants", ("yosys", "-q", "top.ys"), inputs, ["whole.il", "mutants.txt"])
    return (folder / "whole.il").read_bytes(), (folder / "mutants.txt").read_text(encoding="utf-8")


@functools.cache
def mutated() -> Driver:
    """Return the driver of the core with all mutants in it, none of them there."""
    from boards.flow import step
    from sim import faults

    whole, listed = _listed()
    inputs = {"whole.il": whole, "top.ys": _APPLY.format(mutants=listed).encode()}
    folder = step("mutated", ("yosys", "-q", "top.ys"), inputs, ["mutated.v"])
    return Driver(faults.open_library((folder / "mutated.v").read_text(encoding="utf-8") + _TOP), CONFIG)


def choose(number: int) -> None:
    """Let mutant `number` be there, 0 for none of them."""
    driver = mutated()
    row = driver.bus.storage["mutant"].rows[0]
    row[:] = np.frombuffer(number.to_bytes(len(row), "little"), np.uint8)
    driver.bus.reset()


def survives(number: int, programs: int = PROGRAMS) -> bool:
    """Whether nothing differs while mutant `number` is there."""
    from tests.coverage import suite

    choose(number)
    try:
        for index in range(programs):
            allow()
            suite.trial(mutated(), index)
    except Exception:  # a wrong byte, cycle or error, a core that hangs, an answer that isn't one
        return False
    finally:
        choose(0)
    return True


def trial(number: int) -> list[str]:
    """Attack with a mutant; number 0 is the core as it is, which must survive."""
    if not number:
        assert survives(number), "the core itself doesn't"
        return ["no mutant: survives"]
    mutant = mutants()[number - 1]
    if not survives(number):
        return [f"{mutant.unit}: killed"]
    assert is_proved(_listed()[0], mutant.alone), f"survived: {mutant.alone}"
    return [f"{mutant.unit}: proved the same"]


CAMPAIGN = Campaign(
    "rtl-mutants",
    "mutants of the netlist, which programs must show",
    10,
    trial,
    lambda: choose(0),
    numbered=True,
)
