// What a board's top has between its pins and the logic, as a simulation has it. The PLL passes its input on: the
// simulated pin has the frequency of the accelerator's clock.

module SB_PLL40_CORE(input REFERENCECLK, RESETB, BYPASS, output PLLOUTGLOBAL, LOCK);
  parameter FEEDBACK_PATH = "", DIVR = 0, DIVF = 0, DIVQ = 0, FILTER_RANGE = 0;
  assign PLLOUTGLOBAL = REFERENCECLK, LOCK = RESETB;
endmodule

module SB_PLL40_PAD(input PACKAGEPIN, RESETB, BYPASS, output PLLOUTGLOBAL, LOCK);
  parameter FEEDBACK_PATH = "", DIVR = 0, DIVF = 0, DIVQ = 0, FILTER_RANGE = 0;
  assign PLLOUTGLOBAL = PACKAGEPIN, LOCK = RESETB;
endmodule

module SB_GB_IO(inout PACKAGE_PIN, output GLOBAL_BUFFER_OUTPUT);
  parameter PIN_TYPE = 0, IO_STANDARD = "", PULLUP = 0;
  assign GLOBAL_BUFFER_OUTPUT = PACKAGE_PIN;
endmodule

module SB_IO(inout PACKAGE_PIN, input D_OUT_0, OUTPUT_ENABLE, output D_IN_0);
  parameter [5:0] PIN_TYPE = 0;
  parameter IO_STANDARD = "", PULLUP = 0;
  generate
    if (PIN_TYPE[5:2] == 0) assign D_IN_0 = PACKAGE_PIN;
    else assign PACKAGE_PIN = D_OUT_0;
  endgenerate
endmodule
