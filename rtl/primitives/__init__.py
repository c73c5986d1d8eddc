"""What FPGAs have cells for; the platform's family chooses, and without one a component is its plain Amaranth twin."""

from rtl.primitives.masked_adder import MaskedAdder
from rtl.primitives.multiplier import Multiplier
from rtl.primitives.multiplier_pair import MultiplierPair
from rtl.primitives.negator import Negator
from rtl.primitives.single_port_ram import SinglePortRam

__all__ = ["UNORDERED", "MaskedAdder", "Multiplier", "MultiplierPair", "Negator", "SinglePortRam"]

UNORDERED = {"no_rw_check": True}
"""Attributes of a memory whose words don't matter where they are read in the cycle that writes them: block RAM needs no
logic then to keep the read apart from the write."""
