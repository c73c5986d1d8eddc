// Cells of an ECP5 that Yosys keeps as black boxes, as far as Yosys and the gateware use them; what is left out stops a
// simulation. From FPGA-TN-02204 (memory) and FPGA-TN-02205 (sysDSP).

// 2048 bytes of nine bits, seen as words of 1 to 36 bits by either port; a write holds its port's output, or as
// WRITEMODE says.
module DP16KD(input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3,
    DIA2, DIA1, DIA0, input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2,
    DOA1, DOA0, input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0, input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12,
    DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0, input ADB13, ADB12, ADB11, ADB10, ADB9,
    ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0, output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11,
    DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0, input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1,
    CSB0);
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18, REGMODE_A = "NOREG", REGMODE_B = "NOREG", WRITEMODE_A = "NORMAL",
      WRITEMODE_B = "NORMAL", CSDECODE_A = "0b000", CSDECODE_B = "0b000", CLKAMUX = "CLKA", CLKBMUX = "CLKB", CEAMUX =
      "CEA", CEBMUX = "CEB", OCEAMUX = "OCEA", OCEBMUX = "OCEB", WEAMUX = "WEA", WEBMUX = "WEB", RSTAMUX = "RSTA",
      RSTBMUX = "RSTB";
  parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", GSR = "ENABLED", INIT_DATA = "STATIC", WID = 0;
  parameter [319:0] INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0, INITVAL_04 = 0, INITVAL_05 = 0,
      INITVAL_06 = 0, INITVAL_07 = 0, INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0, INITVAL_0C = 0,
      INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0, INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0,
      INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0, INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0,
      INITVAL_1B = 0, INITVAL_1C = 0, INITVAL_1D = 0, INITVAL_1E = 0, INITVAL_1F = 0, INITVAL_20 = 0, INITVAL_21 = 0,
      INITVAL_22 = 0, INITVAL_23 = 0, INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0, INITVAL_28 = 0,
      INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0, INITVAL_2C = 0, INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0,
      INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0, INITVAL_34 = 0, INITVAL_35 = 0, INITVAL_36 = 0,
      INITVAL_37 = 0, INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0, INITVAL_3C = 0, INITVAL_3D = 0,
      INITVAL_3E = 0, INITVAL_3F = 0;
  reg [8:0] mem [0:2047];
  wire [64 * 320 - 1:0] init = {INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39,
      INITVAL_38, INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30,
      INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28, INITVAL_27,
      INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20, INITVAL_1F, INITVAL_1E,
      INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18, INITVAL_17, INITVAL_16, INITVAL_15,
      INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10, INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C,
      INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08, INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03,
      INITVAL_02, INITVAL_01, INITVAL_00};
  integer i;
  initial begin
    if (CLKAMUX != "CLKA" || CSDECODE_A != "0b000" || CLKBMUX != "CLKB" || CSDECODE_B != "0b000")
      $fatal(1, "DP16KD is used in a way that its model doesn't know");
    for (i = 0; i < 2048; i = i + 1) mem[i] = init[20 * (i / 2) + 9 * (i % 2) +: 9];
  end

  wire [13:0] aA = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [35:0] dA = {DATA_WIDTH_A == 36 ? {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7,
      DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0} : 18'b0, DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
      DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
  wire wA = CEA & WEA & ~CSA2 & ~CSA1 & ~CSA0;
  reg [35:0] qA = 0, rA = 0;
  always @(posedge CLKA) begin
    if (RSTA & RESETMODE != "SYNC") $fatal(1, "DP16KD's asynchronous reset isn't modelled");
    if (RSTA) qA <= 0;
    else if (CEA & (~WEA | WRITEMODE_A == "READBEFOREWRITE"))
      case (DATA_WIDTH_A)
        36: qA <= {mem[{aA[13:5], 2'd3}], mem[{aA[13:5], 2'd2}], mem[{aA[13:5], 2'd1}], mem[{aA[13:5], 2'd0}]};
        18: qA <= {18'b0, mem[{aA[13:4], 1'b1}], mem[{aA[13:4], 1'b0}]};
        9: qA <= mem[aA[13:3]];
        4: qA <= mem[aA[13:3]][4 * aA[2] +: 4];
        2: qA <= mem[aA[13:3]][2 * aA[2:1] +: 2];
        1: qA <= mem[aA[13:3]][aA[2:0]];
      endcase
    else if (CEA & WRITEMODE_A == "WRITETHROUGH") qA <= dA;
    if (RSTA) rA <= 0;
    else if (OCEA) rA <= qA;
    if (wA)
      case (DATA_WIDTH_A)
        36: for (iA = 0; iA < 4; iA = iA + 1) if (aA[iA]) mem[{aA[13:5], iA[1:0]}] <= dA[9 * iA +: 9];
        18: for (iA = 0; iA < 2; iA = iA + 1) if (aA[iA]) mem[{aA[13:4], iA[0]}] <= dA[9 * iA +: 9];
        9: mem[aA[13:3]] <= dA[8:0];
        4: mem[aA[13:3]][4 * aA[2] +: 4] <= dA[3:0];
        2: mem[aA[13:3]][2 * aA[2:1] +: 2] <= dA[1:0];
        1: mem[aA[13:3]][aA[2:0]] <= dA[0];
      endcase
  end
  integer iA;
  wire [35:0] oA = REGMODE_A == "OUTREG" ? rA : qA;

  wire [13:0] aB = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
  wire [35:0] dB = {18'b0, DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6,
      DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
  wire wB = CEB & WEB & ~CSB2 & ~CSB1 & ~CSB0;
  reg [35:0] qB = 0, rB = 0;
  always @(posedge CLKB) begin
    if (RSTB & RESETMODE != "SYNC") $fatal(1, "DP16KD's asynchronous reset isn't modelled");
    if (RSTB) qB <= 0;
    else if (CEB & (~WEB | WRITEMODE_B == "READBEFOREWRITE"))
      case (DATA_WIDTH_B)
        36: qB <= {mem[{aB[13:5], 2'd3}], mem[{aB[13:5], 2'd2}], mem[{aB[13:5], 2'd1}], mem[{aB[13:5], 2'd0}]};
        18: qB <= {18'b0, mem[{aB[13:4], 1'b1}], mem[{aB[13:4], 1'b0}]};
        9: qB <= mem[aB[13:3]];
        4: qB <= mem[aB[13:3]][4 * aB[2] +: 4];
        2: qB <= mem[aB[13:3]][2 * aB[2:1] +: 2];
        1: qB <= mem[aB[13:3]][aB[2:0]];
      endcase
    else if (CEB & WRITEMODE_B == "WRITETHROUGH") qB <= dB;
    if (RSTB) rB <= 0;
    else if (OCEB) rB <= qB;
    if (wB)
      case (DATA_WIDTH_B)
        36: for (iB = 0; iB < 4; iB = iB + 1) if (aB[iB]) mem[{aB[13:5], iB[1:0]}] <= dB[9 * iB +: 9];
        18: for (iB = 0; iB < 2; iB = iB + 1) if (aB[iB]) mem[{aB[13:4], iB[0]}] <= dB[9 * iB +: 9];
        9: mem[aB[13:3]] <= dB[8:0];
        4: mem[aB[13:3]][4 * aB[2] +: 4] <= dB[3:0];
        2: mem[aB[13:3]][2 * aB[2:1] +: 2] <= dB[1:0];
        1: mem[aB[13:3]][aB[2:0]] <= dB[0];
      endcase
  end
  integer iB;
  wire [35:0] oB = REGMODE_B == "OUTREG" ? rB : qB;

  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2,
      DOA1, DOA0} = DATA_WIDTH_B == 36 ? oB[17:0] : oA[17:0];
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2,
      DOB1, DOB0} = DATA_WIDTH_B == 36 ? oB[35:18] : oB[17:0];
endmodule

// 18 by 18 bits, either operand signed or not, with a register wherever a parameter names its clock.
module MULT18X18D(input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0, input B17,
    B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0, input C17, C16, C15, C14, C13, C12,
    C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0, input SRIA17, SRIA16, SRIA15, SRIA14, SRIA13, SRIA12, SRIA11,
    SRIA10, SRIA9, SRIA8, SRIA7, SRIA6, SRIA5, SRIA4, SRIA3, SRIA2, SRIA1, SRIA0, input SRIB17, SRIB16, SRIB15,
    SRIB14, SRIB13, SRIB12, SRIB11, SRIB10, SRIB9, SRIB8, SRIB7, SRIB6, SRIB5, SRIB4, SRIB3, SRIB2, SRIB1, SRIB0,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, input CLK0, input CLK1, input CLK2, input CLK3, input CE0, input CE1,
    input CE2, input CE3, input RST0, input RST1, input RST2, input RST3, output SROA17, SROA16, SROA15, SROA14,
    SROA13, SROA12, SROA11, SROA10, SROA9, SROA8, SROA7, SROA6, SROA5, SROA4, SROA3, SROA2, SROA1, SROA0, output
    SROB17, SROB16, SROB15, SROB14, SROB13, SROB12, SROB11, SROB10, SROB9, SROB8, SROB7, SROB6, SROB5, SROB4, SROB3,
    SROB2, SROB1, SROB0, output ROA17, ROA16, ROA15, ROA14, ROA13, ROA12, ROA11, ROA10, ROA9, ROA8, ROA7, ROA6, ROA5,
    ROA4, ROA3, ROA2, ROA1, ROA0, output ROB17, ROB16, ROB15, ROB14, ROB13, ROB12, ROB11, ROB10, ROB9, ROB8, ROB7,
    ROB6, ROB5, ROB4, ROB3, ROB2, ROB1, ROB0, output ROC17, ROC16, ROC15, ROC14, ROC13, ROC12, ROC11, ROC10, ROC9,
    ROC8, ROC7, ROC6, ROC5, ROC4, ROC3, ROC2, ROC1, ROC0,
  output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15, P14,
      P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0, output SIGNEDP);
  parameter REG_INPUTA_CLK = "NONE", REG_INPUTA_CE = "CE0", REG_INPUTA_RST = "RST0", REG_INPUTB_CLK = "NONE",
      REG_INPUTB_CE = "CE0", REG_INPUTB_RST = "RST0", REG_PIPELINE_CLK = "NONE", REG_PIPELINE_CE = "CE0",
      REG_PIPELINE_RST = "RST0", REG_OUTPUT_CLK = "NONE", REG_OUTPUT_CE = "CE0", REG_OUTPUT_RST = "RST0",
      REG_INPUTC_CLK = "NONE", REG_INPUTC_CE = "CE0", REG_INPUTC_RST = "RST0";
  parameter CLK0_DIV = "ENABLED", CLK1_DIV = "ENABLED", CLK2_DIV = "ENABLED", CLK3_DIV = "ENABLED", HIGHSPEED_CLK =
      "NONE", GSR = "ENABLED";
  parameter CAS_MATCH_REG = "FALSE", SOURCEB_MODE = "B_SHIFT", MULT_BYPASS = "DISABLED", RESETMODE = "SYNC";
  initial if (RESETMODE != "SYNC" || MULT_BYPASS != "DISABLED" || (REG_INPUTA_CLK != "NONE" && (REG_INPUTA_CLK !=
      "CLK0" || REG_INPUTA_CE != "CE0" || REG_INPUTA_RST != "RST0")) || (REG_INPUTB_CLK != "NONE" && (REG_INPUTB_CLK
      != "CLK0" || REG_INPUTB_CE != "CE0" || REG_INPUTB_RST != "RST0")) || (REG_PIPELINE_CLK != "NONE" &&
      (REG_PIPELINE_CLK != "CLK0" || REG_PIPELINE_CE != "CE0" || REG_PIPELINE_RST != "RST0")) || (REG_OUTPUT_CLK !=
      "NONE" && (REG_OUTPUT_CLK != "CLK0" || REG_OUTPUT_CE != "CE0" || REG_OUTPUT_RST != "RST0")))
    $fatal(1, "MULT18X18D is used in a way that its model doesn't know");
  wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
  wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
  reg [18:0] r_INPUTA = 0;
  always @(posedge CLK0) if (RST0) r_INPUTA <= 0; else if (CE0) r_INPUTA <= {SIGNEDA, a};
  wire [18:0] v_INPUTA = REG_INPUTA_CLK == "NONE" ? {SIGNEDA, a} : r_INPUTA;
  reg [18:0] r_INPUTB = 0;
  always @(posedge CLK0) if (RST0) r_INPUTB <= 0; else if (CE0) r_INPUTB <= {SIGNEDB, b};
  wire [18:0] v_INPUTB = REG_INPUTB_CLK == "NONE" ? {SIGNEDB, b} : r_INPUTB;
  reg [35:0] r_PIPELINE = 0;
  always @(posedge CLK0) if (RST0) r_PIPELINE <= 0; else if (CE0) r_PIPELINE <= product;
  wire [35:0] v_PIPELINE = REG_PIPELINE_CLK == "NONE" ? product : r_PIPELINE;
  reg [35:0] r_OUTPUT = 0;
  always @(posedge CLK0) if (RST0) r_OUTPUT <= 0; else if (CE0) r_OUTPUT <= v_PIPELINE;
  wire [35:0] v_OUTPUT = REG_OUTPUT_CLK == "NONE" ? v_PIPELINE : r_OUTPUT;
  wire [35:0] product = $signed({v_INPUTA[18] & v_INPUTA[17], v_INPUTA[17:0]}) * $signed({v_INPUTB[18] & v_INPUTB[17],
      v_INPUTB[17:0]});
  assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15,
      P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = v_OUTPUT;
endmodule
