"""What FPGAs have cells for. The platform's family chooses; without one a component is its twin in plain Amaranth."""

from rtl.primitives.single_port_ram import SinglePortRam

__all__ = ["SinglePortRam"]
