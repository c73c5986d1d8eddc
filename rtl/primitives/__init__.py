"""What FPGAs have cells for; the platform's family chooses, and without one a component is its plain Amaranth twin."""

from rtl.primitives.masked_adder import MaskedAdder
from rtl.primitives.multiplier import Multiplier
from rtl.primitives.multiplier_pair import MultiplierPair
from rtl.primitives.negator import Negator
from rtl.primitives.single_port_ram import SinglePortRam

__all__ = ["MaskedAdder", "Multiplier", "MultiplierPair", "Negator", "SinglePortRam"]
