"""What FPGAs have cells for; the platform's family chooses, and without one a component is its plain Amaranth twin."""

from rtl.primitives.accumulator_pair import AccumulatorPair
from rtl.primitives.masked_adder import MaskedAdder
from rtl.primitives.multiplier import Multiplier
from rtl.primitives.multiplier_pair import MultiplierPair
from rtl.primitives.negator import Negator
from rtl.primitives.single_port_ram import SinglePortRam

__all__ = ["AccumulatorPair", "MaskedAdder", "Multiplier", "MultiplierPair", "Negator", "SinglePortRam"]
