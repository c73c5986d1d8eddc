"""Mixed precision within a limit on cycles, from a float network to the RTL: ``python examples/mixed_precision.py``.

The search asks the compiler what every assignment of weights to layers costs, so its cycles are the RTL's.
"""

from __future__ import annotations

import sys

from digits import ARCH, float_network, load_samples, show, show_float

from hwq.quantize import Recipe, quantize
from hwq.quantize.search import Limits, search

MAX_CYCLES = 8000


def main() -> int:
    """Search, and quantize as the search says; return 1 where anything differs from ONNX Runtime."""
    train, test = load_samples()
    network, calibration = float_network(train), {"image": train.images[:256]}
    found = search(network, calibration, ARCH, limits=Limits(max_cycles=MAX_CYCLES), points=6)
    print(f"{'cycles':>8}{'divergence':>13}   bits of each layer's weights")
    for point in found.front:
        mark = "*" if point is found.chosen else " "
        print(f"{point.cycles:>8,}{point.kl:>13.2e} {mark} {' '.join(kind[-1] for kind in point.weights)}")
    print()
    show_float(network, test)
    quantized = quantize(network, calibration, Recipe(weights=found.weights))
    agreed = show(f"mixed, at most {MAX_CYCLES:,} cycles", quantized, test, found.storage)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
