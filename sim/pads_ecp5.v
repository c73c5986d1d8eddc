// What a board's top has between its pins and the logic, as a simulation has it. The PLL passes its input on: the
// simulated pin has the frequency of the accelerator's clock.

module EHXPLLL(
  input CLKI, CLKFB, RST, STDBY, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP, PHASELOADREG, PLLWAKESYNC, ENCLKOP,
  output CLKOP, LOCK
);
  parameter FEEDBK_PATH = "", OUTDIVIDER_MUXA = "", CLKOP_ENABLE = "";
  parameter CLKI_DIV = 0, CLKFB_DIV = 0, CLKOP_DIV = 0, CLKOP_CPHASE = 0, CLKOP_FPHASE = 0;
  assign CLKOP = CLKI, LOCK = ~RST;
endmodule

module IB(input I, output O);
  assign O = I;
endmodule

module OBZ(input I, T, output O);
  assign O = I;
endmodule

// Registers begin as they are configured; it resets none of a simulation.
module SGSR(input GSR, CLK);
endmodule
