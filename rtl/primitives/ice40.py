"""Cells of Lattice's iCE40 UltraPlus (FPGA-TN-02022, SPRAM)."""

from amaranth.hdl import C, Cat, ClockSignal, Elaboratable, Instance, Module

__all__ = ["single_port_ram"]

SPRAM_ROWS = 1 << 14


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
