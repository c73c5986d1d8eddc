"""Cells of Lattice's ECP5 (FPGA-TN-02205, sysDSP; FPGA-DS-02012, slices)."""

from amaranth.hdl import C, ClockSignal, Elaboratable, Instance, Module, Signal, Value

__all__ = ["masked_adder", "multiplier", "negator"]

_WIDTH = 18

# Lookup tables of half a CCU2C, pin D high. Where the sum bit doesn't propagate the carry, the next one is the table's
# entry for A and B with C and D low.
_MASKED_ADD = C(0x6C6C, 16)
"""A where C, plus B."""

_NEGATE = C(0x5A00, 16)
"""A, or where C its complement, plus the carry."""

_CARRY_IN = C(0x000A, 16)
"""A as the next carry."""


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
    operands = zip(component.i_a, component.i_b, component.mask, strict=True)
    m.d.comb += component.o.eq(_chain(m, [(_MASKED_ADD, a, b, mask) for a, b, mask in operands]))
    return m


def negator(component) -> Elaboratable:
    """Return a chain of CCU2C, one half for each bit and one for the carry into them, for a `Negator`."""
    m = Module()
    bits = [(_NEGATE, bit, C(0), component.i_negate) for bit in component.i]
    m.d.comb += component.o.eq(_chain(m, [(_CARRY_IN, component.i_negate, C(0), C(0)), *bits])[1:])
    return m


def _chain(m: Module, halves) -> Value:
    """Return the sum bits of a chain of CCU2C; a half is its lookup table and its pins A, B and C, pin D being high."""
    spare = [(_MASKED_ADD, C(0), C(0), C(0))] * (len(halves) % 2)
    total = Signal(len(halves) + len(spare))
    carry = C(0)
    halves = [*halves, *spare]
    for low, pair in enumerate(zip(halves[::2], halves[1::2], strict=True)):
        following = Signal(name=f"carry_{low}")
        pins = {"i_CIN": carry, "o_COUT": following}
        for half, (table, *operands) in enumerate(pair):
            pins |= {f"i_{pin}{half}": bit for pin, bit in zip("ABCD", (*operands, C(1)), strict=True)}
            pins |= {f"o_S{half}": total[2 * low + half], f"p_INIT{half}": table, f"p_INJECT1_{half}": "NO"}
        m.submodules[f"bits_{2 * low}"] = Instance("CCU2C", **pins)
        carry = following
    return total
