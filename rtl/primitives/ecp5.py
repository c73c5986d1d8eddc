"""Cells of Lattice's ECP5 (FPGA-TN-02205, sysDSP; FPGA-DS-02012, slices)."""

from amaranth.hdl import C, ClockSignal, Elaboratable, Instance, Module, Signal

__all__ = ["masked_adder", "multiplier"]

_WIDTH = 18

_MASKED_ADD = C(0x6C6C, 16)
"""Half of a CCU2C: bit A where C, plus bit B. Where the sum bit doesn't propagate, the carry is the lookup table's
entry with C and D low, which is B."""


def multiplier(component) -> Elaboratable:
    """Return a MULT18X18D with its operand, pipeline and output registers for a `Multiplier`.

    Pins C, SRIA, SRIB and unused clocks, enables and resets stay open: tied to 0, they don't route.
    """
    m = Module()
    product = Signal(2 * _WIDTH)
    pins = {"i_CLK0": ClockSignal(), "i_CE0": C(1), "i_RST0": C(0)}
    pins |= {"p_REG_PIPELINE_CLK": "CLK0", "p_REG_OUTPUT_CLK": "CLK0"}
    for letter, operand in (("A", component.i_a), ("B", component.i_b)):
        bits = Signal(_WIDTH, name=f"operand_{letter.lower()}")
        m.d.comb += bits.eq(operand)
        pins |= {f"i_{letter}{i}": bits[i] for i in range(_WIDTH)}
        pins |= {f"i_SIGNED{letter}": C(operand.shape().signed), f"i_SOURCE{letter}": C(0)}
        pins |= {f"p_REG_INPUT{letter}_CLK": "CLK0"}
    pins |= {f"o_P{i}": product[i] for i in range(2 * _WIDTH)}
    m.submodules.cell = Instance("MULT18X18D", **pins)
    m.d.comb += component.o.eq(product)
    return m


def masked_adder(component) -> Elaboratable:
    """Return a chain of CCU2C, one half for each bit, for a `MaskedAdder`."""
    m = Module()
    width = component.width + component.width % 2
    a, mask, b, total = (Signal(width, name=name) for name in ("a", "mask", "b", "total"))
    m.d.comb += [a.eq(component.i_a), mask.eq(component.i_mask), b.eq(component.i_b), component.o.eq(total)]
    carry = C(0)
    for low in range(0, width, 2):
        following = Signal(name=f"carry_{low}")
        pins = {}
        for half in range(2):
            bit = low + half
            pins |= {f"i_A{half}": a[bit], f"i_B{half}": b[bit], f"i_C{half}": mask[bit], f"i_D{half}": C(1)}
            pins |= {f"o_S{half}": total[bit], f"p_INIT{half}": _MASKED_ADD, f"p_INJECT1_{half}": "NO"}
        m.submodules[f"bits_{low}"] = Instance("CCU2C", i_CIN=carry, o_COUT=following, **pins)
        carry = following
    return m
