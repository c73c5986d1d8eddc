"""What proves that changes of a netlist are harmless."""

import pytest

from tests.campaigns.same_step import is_proved

NETLIST = b"""
module \\top
  wire input 1 \\clk
  wire input 2 \\a
  wire input 3 \\b
  wire output 4 \\q
  wire \\both
  wire \\d
  cell $and \\and
    parameter \\A_SIGNED 0
    parameter \\A_WIDTH 1
    parameter \\B_SIGNED 0
    parameter \\B_WIDTH 1
    parameter \\Y_WIDTH 1
    connect \\A \\a
    connect \\B \\b
    connect \\Y \\both
  end
  cell $or \\or
    parameter \\A_SIGNED 0
    parameter \\A_WIDTH 1
    parameter \\B_SIGNED 0
    parameter \\B_WIDTH 1
    parameter \\Y_WIDTH 1
    connect \\A \\a
    connect \\B \\both
    connect \\Y \\d
  end
  cell $dff \\held
    parameter \\CLK_POLARITY 1'1
    parameter \\WIDTH 1
    connect \\CLK \\clk
    connect \\D \\d
    connect \\Q \\q
  end
end
"""
"""A register of a | (a & b), which is a."""


@pytest.mark.parametrize(
    ("change", "harmless"),
    [
        ("", True),
        ("mutate -mode const0 -module top -cell and -port Y -portbit 0", True),
        ("mutate -mode inv -module top -cell and -port B -portbit 0", True),
        ("mutate -mode const1 -module top -cell and -port Y -portbit 0", False),
        ("mutate -mode inv -module top -cell held -port D -portbit 0", False),
        ("mutate -mode inv -module top -cell held -port Q -portbit 0", False),
        ("mutate -mode const1 -module top -cell held -port D -portbit 0", False),
    ],
)
def test_a_change_is_harmless_if_no_register_is_given_anything_else(change, harmless):
    assert is_proved(NETLIST, change) is harmless
