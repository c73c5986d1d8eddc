"""What vendors have cells for; each component is a twin in plain Amaranth, and a platform may put cells in its place.

As `amaranth.lib.memory.Memory` asks a platform for `get_memory`, a component here asks it for `get_multiplier` or
`get_masked_adder` and hands itself over. A platform without the method, and no platform at all, get the twin.
"""

from rtl.primitives.masked_adder import MaskedAdder
from rtl.primitives.multiplier import Multiplier

__all__ = ["MaskedAdder", "Multiplier"]
