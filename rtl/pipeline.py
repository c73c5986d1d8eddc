"""Delay lines for what travels beside a pipeline."""

from amaranth.hdl import Module, Signal, Value

__all__ = ["delayed"]


def delayed(m: Module, value: Value, cycles: int) -> Value:
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

    Raises
    ------
    ValueError
        If `cycles` isn't an integer of at least 0.
    """
    if not isinstance(cycles, int) or cycles < 0:
        raise ValueError(f"Delay must be an integer of at least 0, not {cycles!r}")
    value = Value.cast(value)
    for _ in range(cycles):
        register = Signal(value.shape(), reset_less=True, src_loc_at=1)  # named as the caller names the result
        m.d.sync += register.eq(value)
        value = register
    return value
