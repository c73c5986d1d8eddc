"""Delay lines for what travels beside a pipeline."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib.memory import Memory

from rtl.unordered import UNORDERED

__all__ = ["delayed", "recalled"]


def delayed(m: Module, value: Value, cycles: int, *, alone: bool = False) -> Value:
    """Return `value` as it was `cycles` clock cycles ago.

    The registers are in domain "sync" and have no reset: they hold data that nobody looks at before it has passed
    through.

    Parameters
    ----------
    m : Module
        Where the registers go.
    value : Value
        Any shape; it is kept.
    cycles : int
        0 or more.
    alone : bool
        Whether synthesis leaves the registers' names and what is in front of them as they are. Of several that hold
        the same it makes one all the same.

    Raises
    ------
    ValueError
        If `cycles` isn't an integer of at least 0.
    """
    if not isinstance(cycles, int) or cycles < 0:
        raise ValueError(f"Delay must be an integer of at least 0, not {cycles!r}")
    value = Value.cast(value)
    for _ in range(cycles):
        # named as the caller names the result
        register = Signal(value.shape(), reset_less=True, src_loc_at=1, attrs={"keep": 1} if alone else {})
        m.d.sync += register.eq(value)
        value = register
    return value


def recalled(m: Module, value: Value, cycles: int) -> Value:
    """Return `value` as it was `cycles` clock cycles ago, from a memory: for many bits and many cycles.

    Until it has passed through, what comes out isn't defined.

    Parameters
    ----------
    m : Module
        Where the memory goes, as its only submodule of this name.
    value : Value
    cycles : int
        2 or more.

    Raises
    ------
    ValueError
        If `cycles` isn't an integer of at least 2.
    """
    if not isinstance(cycles, int) or cycles < 2:
        raise ValueError(f"Delay in memory must be an integer of at least 2, not {cycles!r}")
    depth = 1 << (cycles - 1).bit_length()
    m.submodules.past = past = Memory(shape=len(value), depth=depth, init=[], attrs={**UNORDERED, "ram_style": "block"})
    write, read = past.write_port(), past.read_port()
    now = Signal(range(depth))
    m.d.sync += now.eq(now + 1)
    m.d.comb += [
        write.en.eq(1),
        write.addr.eq(now),
        write.data.eq(value),
        read.addr.eq(now - (cycles - 1)),
    ]
    return read.data
