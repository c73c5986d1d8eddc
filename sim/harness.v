// Pins of the accelerator for harness.cpp, under names that need no escape in C++.
//
// The reset is delayed by a register: as an input it would be an operand of every register's next value, and all of
// them would be computed again at each edge of the clock, because inputs may have changed.

module hwq_harness (
    input         clk,
    input         rst,
    input  [25:0] adr,
    input  [31:0] dat_w,
    output [31:0] dat_r,
    input  [ 3:0] sel,
    input         we,
    input         cyc,
    input         stb,
    output        ack,
    output        irq
);
  reg rst_q = 1'b1;
  always @(posedge clk) rst_q <= rst;

  top top (
      .clk(clk),
      .rst(rst_q),
      .bus__adr(adr),
      .bus__dat_w(dat_w),
      .bus__dat_r(dat_r),
      .bus__sel(sel),
      .bus__we(we),
      .bus__cyc(cyc),
      .bus__stb(stb),
      .bus__ack(ack),
      .irq(irq)
  );
endmodule
