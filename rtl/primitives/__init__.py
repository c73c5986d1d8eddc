"""What FPGAs have cells for: the platform's family chooses, and without one a component is its twin in plain Amaranth."""

from rtl.primitives.masked_adder import MaskedAdder
from rtl.primitives.multiplier import Multiplier

__all__ = ["MaskedAdder", "Multiplier"]
