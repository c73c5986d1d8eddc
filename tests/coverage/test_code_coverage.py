"""Coverage of a few programs on the smallest array doesn't fall, and what is counted is what is meant."""

import numpy as np
import pytest

from hwq.driver import Driver
from rtl.top import Accelerator
from sim.build import verilog
from sim.coverage import Point, covered, marked, read
from sim.verilator_bus import open_library
from tests.campaigns.cores import ARRAYS
from tests.coverage import account, designs, results, suite
from tests.coverage.constants import constants

SMALLEST = ARRAYS[4]
TRIALS = 12
FLOORS = {"line": 0.97, "branch": 0.97}


@pytest.mark.slow
@pytest.mark.xdist_group("verilator")
def test_a_few_programs_reach_nearly_every_line_and_branch(tmp_path):
    text = marked(verilog(SMALLEST))
    driver = Driver(open_library(text, covered(kinds=tuple(FLOORS))), SMALLEST)
    suite.run(driver, TRIALS)
    driver.bus.write_coverage(tmp_path / "coverage.dat")
    counts = read(tmp_path / "coverage.dat", text)
    tallies = account.tallies(counts, text, designs.files(Accelerator(SMALLEST)), {})
    for kind, floor in FLOORS.items():
        reached, points = (
            sum(getattr(kinds[kind], name) for kinds in tallies.values()) for name in ("reached", "points")
        )
        holes = [point for kinds in tallies.values() for point in kinds[kind].holes]
        assert reached >= floor * points, f"{kind}: {reached} of {points}; not {holes}"


DESIGN = """\
module top(clk, i, q, o);
  input clk;
  input [1:0] i;
  output [1:0] q;
  output [1:0] o;
  wire never;
  reg [1:0] unread;
  reg [1:0] q;
  reg [1:0] o;
  assign never = i[0] & 1'h0;
  always @(posedge clk)
    q <= i;
  always @(posedge clk)
    unread <= { i[1], never };
  always @* begin
    o = 2'h0;
    if (never) begin
      o = 2'h1;
    end else begin
      o = 2'h2;
    end
  end
endmodule
"""


def test_constant_bits_are_those_that_no_input_changes():
    known = constants(DESIGN)
    assert known["never"] == {0: 0}
    assert known["unread"] == {0: 0}
    assert known["o"] == {0: 0, 1: 1}
    assert not {"i", "q", "clk"} & set(known)


def test_points_that_constants_exclude():
    points = {
        Point("branch", "", 17, 5, "if"): 0,
        Point("branch", "", 17, 6, "else"): 7,
        Point("line", "", 18, 0, ""): 0,
        Point("line", "", 20, 0, ""): 7,
        Point("toggle", "", 7, 13, "unread[0]:0->1"): 0,
        Point("toggle", "", 7, 13, "unread[1]:0->1"): 0,
        Point("expression", "", 10, 18, "(i[0]==1 && never==1) => 1"): 0,
        Point("expression", "", 10, 18, "(never==0) => 0"): 3,
    }
    known = {"never": {0: 0}, "unread": {0: 0}}
    table = account.tallies(points, DESIGN, {"": "top.py"}, known)["top.py"]
    assert {kind: (tally.points, tally.reached, tally.excluded) for kind, tally in table.items()} == {
        "branch": (2, 1, 1),
        "line": (2, 1, 1),
        "toggle": (2, 0, 1),
        "expression": (2, 1, 1),
    }
    points[Point("line", "", 18, 0, "")] = 2
    with pytest.raises(ValueError, match="reached 2 times, and yet it can't be"):
        account.tallies(points, DESIGN, {"": "top.py"}, known)


def test_marks_leave_signals_of_the_source():
    text = "  reg [7:0] mem [0:3];\n  wire \\$12 ;\n  wire \\$signal$12 ;\n  wire [3:0] kept;\n"
    lines = marked(text).splitlines()
    assert ["coverage_off" in line for line in lines] == [True, True, False, False]


def test_every_design_is_in_the_results():
    state = results.load()
    assert set(state) <= set(results.DESIGNS)
    for design in state.values():
        for kinds in design["files"].values():
            assert all(np.all(np.array(counts) >= 0) and sum(counts[1:]) <= counts[0] for counts in kinds.values())
