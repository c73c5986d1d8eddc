"""Which FPGA families have cells for which components."""

from collections.abc import Callable

from amaranth.hdl import Elaboratable

from rtl.primitives import ecp5, ice40

__all__ = ["maker", "multiplies"]

_FAMILIES = {"ecp5": ecp5, "iCE40": ice40}
"""By Amaranth's name of a family; a module's function makes the cell of the component named like it."""

_PLAIN = ("iCE40HX", "iCE40LP")
"""Beginnings of devices' names that have none of the family's cells here."""


def maker(platform, component: str) -> Callable[..., Elaboratable] | None:
    """Return the function that makes `component` from cells of the platform's family, or None where there is none."""
    if getattr(platform, "device", "").startswith(_PLAIN):
        return None
    return getattr(_FAMILIES.get(getattr(platform, "family", None)), component, None)


def multiplies(platform) -> bool:
    """Return whether there are multiplier cells of 18 bits for the output path: true where the family isn't known."""
    family = getattr(platform, "family", None)
    return family not in _FAMILIES or maker(platform, "multiplier") is not None
