"""Cells of Lattice's iCE40 UltraPlus (FPGA-TN-02022, SPRAM; FPGA-TN-02007, DSP)."""

from amaranth.hdl import C, Cat, ClockSignal, Elaboratable, Instance, Module, Value

__all__ = ["accumulator_pair", "multiplier_pair", "single_port_ram"]

SPRAM_ROWS = 1 << 14


def multiplier_pair(component) -> Elaboratable:
    """Return an SB_MAC16 as two multipliers of bytes for a `MultiplierPair`.

    Registers: operands, products, and those of the accumulators behind them, which add zero.
    """
    return _bytes(component, upper=1, hold=C(0), load=C(0))  # the adder's other operand is C, 0


def accumulator_pair(component) -> Elaboratable:
    """Return an SB_MAC16 as two multiply-accumulators of bytes for an `AccumulatorPair`.

    Registers: operands, products, accumulators, which load 0.
    """
    hold = ~(component.i_enable | component.i_clear)
    return _bytes(component, upper=0, hold=hold, load=component.i_clear)


def _bytes(component, *, upper: int, hold: Value, load: Value) -> Elaboratable:
    """Return an SB_MAC16 of two halves alike: the accumulators' other operand, when they keep and load theirs."""
    m = Module()
    halves = {}
    for half, addend in (("TOP", "C"), ("BOT", "D")):
        halves |= {
            f"p_{half}_8x8_MULT_REG": C(1),
            f"p_{half}OUTPUT_SELECT": C(1, 2),  # the accumulator's register
            f"p_{half}ADDSUB_LOWERINPUT": C(1, 2),  # adds the product
            f"p_{half}ADDSUB_UPPERINPUT": C(upper),
            f"i_{addend}": C(0, 16),
            f"i_OHOLD{half}": hold,
            f"i_OLOAD{half}": load,
            **{f"i_{pin}{half}": C(0) for pin in ("IRST", "ORST", "ADDSUB")},
        }
    m.submodules.cell = Instance(
        "SB_MAC16",
        p_MODE_8x8=C(1),
        **{f"p_{name}": C(1) for name in ("A_REG", "B_REG", "A_SIGNED", "B_SIGNED")},
        i_CLK=ClockSignal(),
        i_CE=C(1),
        i_A=component.i_a.as_value(),
        i_B=component.i_b.as_value(),
        **{f"i_{pin}HOLD": C(0) for pin in "ABCD"},
        **{f"i_{pin}": C(0) for pin in ("CI", "ACCUMCI", "SIGNEXTIN")},
        o_O=component.o.as_value(),
        **halves,
    )
    return m


def single_port_ram(component) -> Elaboratable:
    """Return an SB_SPRAM256KA for a `SinglePortRam` of up to 16,384 rows; its mask has a bit for four of data.

    Raises
    ------
    ValueError
        If the memory is deeper.
    """
    if component.depth > SPRAM_ROWS:
        raise ValueError(f"An SB_SPRAM256KA has {SPRAM_ROWS} rows, not {component.depth}")
    m = Module()
    m.submodules.cell = Instance(
        "SB_SPRAM256KA",
        i_CLOCK=ClockSignal(),
        i_ADDRESS=component.i_address | C(0, 14),
        i_DATAIN=component.i_data,
        i_MASKWREN=Cat(bit.replicate(2) for bit in component.i_mask),
        i_WREN=component.i_write,
        i_CHIPSELECT=C(1),
        i_STANDBY=C(0),
        i_SLEEP=C(0),
        i_POWEROFF=C(1),
        o_DATAOUT=component.o_data,
    )
    return m
